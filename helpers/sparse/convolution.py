"""A pruned network that runs on its non-zero weights only.

`compile_sparse(network)` folds the batch norms, fuses bias, ReLU and max-pool into each layer, and turns every layer into
lists of non-zeros for the two layouts of `layers.py`. A layer that is faster dense stays dense (`choice.py`). Where the
kernels cannot be built everything runs dense; `available()` says why.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from helpers import models
from helpers.sparse import choice, kernels, layers
from helpers.sparse.kernels import available
from helpers.sparse.layers import IMAGES, POSITIONS, Operation, Step

__all__ = ["SparseNetwork", "available", "compile_sparse"]


class SparseNetwork:
    """A compiled network: float32 (N, 3, H, W) on the CPU → (N, classes) logits, for any N and any size the network takes.

    `plan[layout][layer]` is "dense" or "sparse"; a layer that the plan does not name runs sparsely. `reason` is None, or one
    line that says why everything runs dense. Raises ValueError for a network that is not on the CPU, or a plan that names what
    the network has not.
    """

    def __init__(self, network: models.VGG, plan: Mapping[str, Mapping[str, str]]):
        choice.require_cpu(network)
        self.reason = available()
        self._operations = layers.operations(network)
        names = [op.name for op in self._operations if isinstance(op, Operation)]
        unknown = sorted({name for choices in plan.values() for name in choices} - set(names))
        if unknown or set(plan) - {IMAGES, POSITIONS}:
            raise ValueError(f"the plan names {unknown[0] if unknown else sorted(plan)}, which is no layer or layout")
        missing = "sparse" if self.reason is None else "dense"
        self.plan = {
            layout: {name: missing if self.reason else plan.get(layout, {}).get(name, missing) for name in names}
            for layout in (IMAGES, POSITIONS)
        }
        self._compiled: dict[tuple[str, int, int, int], list[Step]] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float32 or images.dim() != 4 or images.device.type != "cpu":
            raise ValueError(f"expected float32 (N, C, H, W) on the CPU, got {images.dtype} {tuple(images.shape)}")
        if not len(images):
            raise ValueError("an empty batch")
        layout = layers.layout_of(len(images))
        key = (layout, *images.shape[1:])
        if key not in self._compiled:
            self._compiled[key] = self._compile(layout, images)
        x = images.contiguous()
        for step in self._compiled[key]:
            x = step(x)
        return x[: len(images)]

    def _compile(self, layout: str, images: Tensor) -> list[Step]:
        """The steps, with a conversion wherever a sparse and a dense layer meet."""
        steps: list[Step] = []
        blocked = False  # x is (N / lanes, C, H, W, lanes)
        probe = images[:1].contiguous()
        for op in self._operations:
            if isinstance(op, nn.Flatten):
                probe = probe.flatten(1)
                if not blocked:
                    steps.append(op)
                continue
            sparse = isinstance(op, Operation) and self.plan[layout][op.name] == "sparse"
            if layout == IMAGES and sparse != blocked:
                steps.append(_to_images if sparse else kernels.from_images)
                blocked = sparse
            if not isinstance(op, Operation):
                steps.append(op)
                probe = op(probe)
                continue
            size = (*probe.shape[1:], 1, 1)[:3]
            if not sparse:
                steps.append(layers.dense_step(op))
            elif layout == IMAGES:
                steps.append(layers.images_step(op, *size))
            else:
                steps += [Tensor.contiguous, layers.positions_step(op, *size)]
            probe = layers.dense_step(op)(probe)
        return [*steps, kernels.from_images, _flattened] if blocked else steps


def _to_images(x: Tensor) -> Tensor:
    return kernels.to_images(x, layers.lanes_of())


def _flattened(x: Tensor) -> Tensor:
    return x.flatten(1)


def compile_sparse(network: models.VGG, *, plan: Mapping[str, Mapping[str, str]] | None = None) -> SparseNetwork:
    """`network` as a callable that touches non-zero weights only where that is faster.

    Without a `plan` ({"images" | "positions": {layer: "dense" | "sparse"}}) each layer takes what `choice.plan` measured to be
    faster on this machine; an empty plan runs every layer sparsely. Raises ValueError as `SparseNetwork` does.
    """
    return SparseNetwork(network, choice.plan(network) if plan is None else plan)
