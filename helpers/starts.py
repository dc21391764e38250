"""How a new network begins, beyond what `models.VGG` draws by itself; every function changes the network in place."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.models import VGG

RANDOM_SHARE = 0.25  # of the random weights beside identities (docs/trials.md)
SMALLEST_VARIANCE = 5e-4  # added when patches are whitened, so that what hardly varies is not blown up


def draw_large_head(network: VGG) -> None:
    """Draw the head's weights anew as He et al. (2015), by fan-in: 2.4 times torch's default.

    No batch norm follows the head's layers, so the scale of their weights decides how fast the network learns and what a
    score keeps of them (docs/trials.md).
    """
    for module in network.classifier:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(module.bias)


@torch.no_grad()
def add_identities(network: VGG) -> None:
    """Make each convolution hand its inputs on: its weights times `RANDOM_SHARE`, plus the identity.

    So thirteen plain layers have a path around them (Zagoruyko and Komodakis 2017, *DiracNets*), and no weight is zero.
    """
    for module in network.features:
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(RANDOM_SHARE).add_(nn.init.dirac_(torch.empty_like(module.weight)))


@torch.no_grad()
def whiten(network: VGG, images: Tensor) -> None:
    """Make the first convolution whiten what it sees, from normalised images (N, 3, H, W).

    Its filters become the principal components of the images' 3×3 patches, each scaled to variance 1 and taken with both
    signs, since a ReLU follows; filters beyond these stay as they are (Page 2019, *How to train your ResNet*, part 8).
    """
    first = cast(nn.Conv2d, network.features[0])
    patches = F.unfold(images, 3).transpose(1, 2).flatten(0, 1)
    variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (components / (variances + SMALLEST_VARIANCE).sqrt()).T.flip(0)[: first.out_channels // 2]  # largest first
    first.weight[: 2 * len(scaled)] = torch.cat([scaled, -scaled]).view(-1, *first.weight.shape[1:])
