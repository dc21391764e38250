"""Faster training, with the same results to rounding: on a CPU 3×3 convolutions rewritten and freed memory kept, on a GPU graphs.

One door for each, `accelerate` and `graphs.Forward`, and one switch, ACCELERATE=0. Nothing else in the package knows what is in
here: without this folder and `training`'s use of it everything works, only slower.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from helpers.accelerate import convolutions, graphs, heap
from helpers.accelerate.switch import switched_on

__all__ = ["accelerate", "graphs"]


@contextmanager
def accelerate(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the context `network` trains faster where it lies on the CPU; afterwards it is as before, after an exception too.

    Args:
        network: any module, best in torch.channels_last.
        dtype: what its convolutions compute in: torch.float32, or torch.bfloat16 under autocast; with others nothing changes.

    Not differentiable twice, and not to be nested. ValueError when $ACCELERATE is neither 0 nor 1.
    """
    if not switched_on() or any(parameter.device.type != "cpu" for parameter in network.parameters()):
        yield
        return
    with heap.kept(), convolutions.replaced(network, dtype):
        yield
