"""Taking channels out of a VGG: the producing convolution, its batch norm, and the layer that reads the channels."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from helpers import models
from helpers.pruning import reconstruction
from helpers.pruning.stream import Unit, first_linear, units
from helpers.pruning.widths import with_conv_widths


def consumer(network: models.VGG, number: int) -> tuple[str, nn.Conv2d | nn.Linear]:
    """(name, layer) that reads the output of convolution number `number`."""
    convs = units(network)
    layer = convs[number + 1].conv if number + 1 < len(convs) else first_linear(network)
    return next(name for name, module in network.named_modules() if module is layer), layer


def taps_of(network: models.VGG, number: int) -> int:
    """How many weights the consumer of convolution `number` has for one channel and output: 9, or the last map's area."""
    producer, (_, layer) = units(network)[number], consumer(network, number)
    return layer.weight[0].numel() // producer.conv.out_channels


def slice_outputs(unit: Unit, kept: Tensor) -> None:
    """Keep some output channels of a convolution and of its batch norm, in place."""
    conv = unit.conv
    kept = kept.to(conv.weight.device)
    conv.weight, conv.bias = nn.Parameter(conv.weight.data[kept]), nn.Parameter(conv.bias.data[kept])
    conv.out_channels = len(kept)
    for norm in unit.rest:
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight, norm.bias = nn.Parameter(norm.weight.data[kept]), nn.Parameter(norm.bias.data[kept])
            norm.running_mean, norm.running_var = norm.running_mean[kept], norm.running_var[kept]
            norm.num_features = len(kept)


def set_inputs(layer: nn.Conv2d | nn.Linear, W: Tensor, bias: Tensor, taps: int) -> None:
    """Give a consumer new weights (outputs, taps · kept) and their bias, in place."""
    weight = reconstruction.unmatrix(W, layer, taps)
    layer.weight, layer.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias)
    if isinstance(layer, nn.Conv2d):
        layer.in_channels = weight.shape[1]
    else:
        layer.in_features = weight.shape[1]


def matrix_of(layer: nn.Conv2d | nn.Linear, taps: int, kept: Tensor) -> Tensor:
    """The columns of a consumer's weight matrix that belong to `kept` channels."""
    W = reconstruction.matrix(layer, taps)
    return W.view(len(W), taps, -1)[:, :, kept.to(W.device)].flatten(1)


def rebuilt(network: models.VGG, sliced: models.VGG, counts: Sequence[int]) -> models.VGG:
    """A clean VGG of the new widths with the tensors of `sliced`."""
    widths = with_conv_widths(network.widths, counts)
    small = models.build({**network.architecture(), "widths": list(widths)})
    small.load_state_dict(sliced.state_dict())
    return small.to(next(network.parameters()).device).train(network.training)


def remove(network: models.VGG, kept: Sequence[Tensor] | Mapping[str, Tensor]) -> models.VGG:
    """A smaller copy of `network` with only the `kept` output channels of each convolution, weights unchanged.

    `kept` holds ascending channel indices a convolution, in forward order or by name ("features.0"); a convolution that
    a mapping does not name keeps all. Raises ValueError for indices that are not ascending channels of their layer.
    """
    sliced = copy.deepcopy(network)
    convs = units(sliced)
    everything = {unit.name: torch.arange(unit.conv.out_channels) for unit in convs}
    if isinstance(kept, Mapping):
        unknown = sorted(set(kept) - set(everything))
        if unknown:
            raise ValueError(f"{unknown[0]} is no convolution of this network; it has {', '.join(everything)}")
        kept = list({**everything, **kept}.values())
    if len(kept) != len(convs):
        raise ValueError(f"{len(kept)} index lists for {len(convs)} convolutions")
    for number, (unit, index) in enumerate(zip(convs, kept, strict=True)):
        index = torch.as_tensor(index, dtype=torch.int64).cpu()
        if not len(index) or index[0] < 0 or index[-1] >= unit.conv.out_channels or (index.diff() <= 0).any():
            raise ValueError(f"the kept channels of {unit.name} must ascend from 0 to at most {unit.conv.out_channels - 1}")
        taps, (_, layer) = taps_of(sliced, number), consumer(sliced, number)
        W = matrix_of(layer, taps, index)
        slice_outputs(unit, index)
        set_inputs(layer, W, layer.bias.data, taps)
    return rebuilt(network, sliced, [unit.conv.out_channels for unit in convs])
