"""A training step on a GPU as CUDA graphs: its kernels are launched at once, not one by one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers import progress
from helpers.accelerate.switch import switched_on

CAPTURED = ("cuda",)  # devices where a step waits for the launch of its kernels


class _InFormat(nn.Module):
    """A network in one number format, as a module of its own, so that the network's `forward` stays what it is."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, inputs: Tensor) -> Tensor:
        # without autocast's cache: a captured graph replays the casts of the weights, which change from step to step
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False):
            return self.network(inputs)


class Forward:
    """How a training computes its logits: on a GPU forward and backward are captured as one CUDA graph a shape of its batches.

    What is captured are the kernels: weights, masks and statistics are read where they lie. Where capturing fails, one line
    says so and the kernels are launched one by one.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        self.network, self.dtype = network, dtype
        self.of_shape: dict[torch.Size, Callable] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        if inputs.shape not in self.of_shape:
            self.of_shape[inputs.shape] = self._captured(inputs) if self.captures(inputs) else self._plain()
        return self.of_shape[inputs.shape](inputs)

    def captures(self, inputs: Tensor) -> bool:
        return inputs.device.type in CAPTURED and switched_on()

    def _plain(self) -> _InFormat:
        return _InFormat(self.network, self.dtype)

    def _captured(self, inputs: Tensor) -> Callable:
        before = [buffer.clone() for buffer in self.network.buffers()]  # the trial runs move batch norm's statistics
        try:
            with torch.random.fork_rng():
                return torch.cuda.make_graphed_callables(self._plain(), (torch.zeros_like(inputs),))
        except (RuntimeError, AssertionError) as error:
            progress.say(f"no CUDA graph of a training step ({str(error).splitlines()[0]}): its kernels are launched one by one")
            return self._plain()
        finally:
            with torch.no_grad():
                for buffer, value in zip(self.network.buffers(), before, strict=True):
                    buffer.copy_(value)
