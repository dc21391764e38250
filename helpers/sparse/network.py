"""A pruned network that runs on its non-zero weights only.

`compile_sparse(network)` folds the batch norms, fuses bias, ReLU and max-pool into each layer, and turns every layer into
lists of non-zeros for the two layouts of `layers`. A layer that is faster dense stays dense. Where the kernels cannot be
built everything runs dense; `kernels.available()` says why.
"""

import hashlib
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from helpers import files, models
from helpers.sparse import kernels, layers
from helpers.sparse.layers import IMAGES, POSITIONS, Operation, Step

FEWEST_IMAGES = 8  # a smaller batch runs in the positions layout
SPARSE_STEP: dict[str, Callable[..., Step]] = {IMAGES: layers.images_step, POSITIONS: layers.positions_step}
# from a dense layer to a sparse one, and the other way round
CONVERSIONS: dict[str, tuple[Step, Step]] = {
    IMAGES: (kernels.to_images, kernels.from_images),
    POSITIONS: (Tensor.contiguous, Tensor.contiguous),
}
TRIED = {IMAGES: 32, POSITIONS: 1}  # images, where it is measured which is faster
BUCKETS = 20  # densities are rounded up to 1/20
MARGIN = 1.15  # a layer runs dense only if that is faster by more than the noise of a busy machine
TURNS = 10  # of which the least time counts
HEAD = (nn.Linear, nn.ReLU, nn.Dropout, nn.Identity)
PARTS = {"features": (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, *HEAD[1:]), "classifier": HEAD}
ORDER = "square convolution, batch norm, ReLU, 2×2 max-pool, then linear layers with ReLU, in this order"

Plan = Mapping[str, Mapping[str, str]]  # {"images" | "positions": {layer: "dense" | "sparse"}}


def operations(network: models.VGG) -> list[Operation]:
    """The network in eval mode as fused operations.

    Raises TypeError for a network that is no VGG, ValueError naming the first part of one that no kernel knows.
    """
    models.require_vgg(network)
    for name, module in network.named_modules():
        kind = models.VGG if module is network else nn.Sequential if name in PARTS else type(module)
        own = "forward" in vars(module) or type(module).forward is not kind.forward
        if own or module._forward_hooks or module._forward_pre_hooks:
            hint = "masks of torch.nn.utils.prune become permanent by prune.remove"
            raise ValueError(f"{name or 'the network'} has a hook or forward of its own, which kernels would skip ({hint})")
    for name, weight in network.named_parameters():
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            here = f"{name} is {weight.dtype} on {weight.device}"
            raise ValueError(f'sparse networks run in float32 on the CPU, and {here}: pass a copy moved by .to("cpu").float()')
    ops: list[Operation] = []
    for part, known in PARTS.items():
        for child, module in getattr(network, part).named_children():
            if type(module) not in known or not _added(ops, f"{part}.{child}", module):
                layer = f"{type(module).__name__}({module.extra_repr()})"
                raise ValueError(f"{part}.{child} is {layer}, which sparse kernels do not run there; they run {ORDER}")
    return ops


def _added(ops: list[Operation], name: str, module: nn.Module) -> bool:
    """Append `module` or fuse it into the last operation; whether that is possible."""
    last = ops[-1] if ops and not ops[-1].pool else None
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and _runs(module)):
        bias = torch.zeros(len(module.weight)) if module.bias is None else module.bias.detach()
        square = (module.stride[0], module._reversed_padding_repeated_twice[0]) if isinstance(module, nn.Conv2d) else ()
        ops.append(Operation(name, module.weight.detach().contiguous(), bias, *square))
    elif isinstance(module, nn.BatchNorm2d) and last and not last.relu and (mean := module.running_mean) is not None:
        of_norm = (mean, cast(Tensor, module.running_var), module.eps, module.weight, module.bias)
        weight, bias = fuse_conv_bn_weights(last.weight, last.bias, *of_norm)
        ops[-1] = replace(last, weight=weight.detach(), bias=bias.detach())
    elif isinstance(module, nn.ReLU) and last and not last.relu:
        ops[-1] = replace(last, relu=True)
    elif isinstance(module, nn.MaxPool2d) and last and str(module) == str(nn.MaxPool2d(2)):
        ops[-1] = replace(last, pool=True)
    else:
        return isinstance(module, nn.Dropout | nn.Identity)
    return True


def _runs(layer: nn.Conv2d) -> bool:
    """Whether there are kernels for this convolution; its padding on four sides is in numbers, also where it was "same"."""
    square = all(len({*sides}) == 1 for sides in (layer.kernel_size, layer.stride, layer._reversed_padding_repeated_twice))
    plain = (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
    return square and plain and layer.stride[0] <= 2 and (layer.kernel_size[0] - 1) // layer.stride[0] in layers.REACHES


def sized(ops: Sequence[Operation], shape: Sequence[int]) -> Iterator[tuple[Operation, tuple[int, int, int]]]:
    """Each operation with the (channels, height, width) that it sees in a network of (C, H, W) images."""
    x = torch.zeros(1, *shape)
    for op in ops:
        yield op, (*x.shape[1:], 1, 1)[:3]
        x = layers.dense_step(op)(x)


def layout_of(images: Tensor) -> str:
    """The layout that a batch runs in; ValueError for one that is not float32 (N, C, H, W) on the CPU."""
    if images.dtype != torch.float32 or images.dim() != 4 or images.device.type != "cpu":
        raise ValueError(f"expected float32 (N, C, H, W) on the CPU, got {images.dtype} {tuple(images.shape)}")
    return IMAGES if len(images) >= FEWEST_IMAGES else POSITIONS


class SparseNetwork:
    """A compiled network: float32 (N, 3, H, W) on the CPU → (N, classes) logits, for any N and any size the network takes.

    `plan[layout][layer]` is "dense" or "sparse"; a layer that the given plan does not name runs sparsely. `reason` is None,
    or one line that says why everything runs dense. NaN and infinity go where non-zero weights lead, and nowhere else.
    """

    def __init__(self, ops: Sequence[Operation], plan: Plan):
        self.reason, self._ops = kernels.available(), ops
        kind = "sparse" if self.reason is None else "dense"
        self.plan = {layout: dict.fromkeys((op.name for op in ops), kind) for layout in SPARSE_STEP}
        for layout, kinds in plan.items():
            for name, kind in kinds.items():
                if name not in self.plan.get(layout, ()) or kind not in ("dense", "sparse"):
                    raise ValueError(f"the plan says {kind!r} of {layout}, {name}: no kind, layout or layer of this network")
                self.plan[layout][name] = kind if self.reason is None else "dense"
        self._compiled: dict[tuple, list[Step]] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        layout = layout_of(images)
        key = (layout, *images.shape[1:])
        if key not in self._compiled:
            self._compiled[key] = self._compile(*key)
        x = images.contiguous()
        for step in self._compiled[key]:
            x = step(x)
        return x[: len(images)].flatten(1)

    def _compile(self, layout: str, *shape: int) -> list[Step]:
        """The steps, with a conversion wherever a sparse and a dense layer meet."""
        enter, leave = CONVERSIONS[layout]
        steps: list[Step] = []
        kind = "dense"
        for op, size in sized(self._ops, shape):
            before, kind = kind, self.plan[layout][op.name]
            steps += [] if kind == before else [enter if kind == "sparse" else leave]
            steps.append(SPARSE_STEP[layout](op, *size) if kind == "sparse" else layers.dense_step(op))
        return [*steps, leave] if kind == "sparse" else steps


def compile_sparse(network: models.VGG, plan: Plan | None = None) -> SparseNetwork:
    """`network` in eval mode as a callable that touches non-zero weights only where that is faster.

    Without a `plan` each layer takes what was measured to be faster on this machine; an empty one runs every layer sparsely.
    Raises TypeError for a network that is no `models.VGG`; ValueError for one with a part that no kernel knows, with hooks, or
    not float32 on the CPU, and for a plan that names what the network has not.
    """
    ops = operations(network)
    if plan is None:
        plan = {} if kernels.available() else _measured(ops, (3, network.image_size, network.image_size))
    return SparseNetwork(ops, plan)


@torch.no_grad()
def _measured(ops: Sequence[Operation], shape: Sequence[int]) -> Plan:
    """The faster kind of each layer in each layout, measured once a machine and number of threads, then read from a file.

    A measurement is of a shape, a density in steps of 5 % and what is fused. The dense side converts from and to the sparse
    layout, as between two sparse layers.
    """
    machine = "\0".join([kernels.processor(), torch.__version__, kernels.SOURCE.read_text()])
    machine = f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}-threads{torch.get_num_threads()}"
    path = kernels.cache_dir() / f"faster-{machine}.json"
    plan: dict[str, dict[str, str]] = {layout: {} for layout in SPARSE_STEP}
    with files.lock(path.with_suffix(".lock")):
        faster = files.intact(path, files.load_json) or {}
        before = len(faster)
        for op, size in sized(ops, shape):
            bucket = -(-int(op.weight.count_nonzero()) * BUCKETS // op.weight.numel())  # the next twentieth above
            of = f"{[*op.weight.shape]} on {size}, {op.stride, op.padding, op.relu, op.pool}, density {bucket}/{BUCKETS}"
            for layout in plan:
                plan[layout][op.name] = faster.get(f"{layout} {of}") or _faster(op, size, layout)
                faster[f"{layout} {of}"] = plan[layout][op.name]
        if len(faster) > before:
            files.save_json(path, faster)
    return plan


def _faster(op: Operation, size: tuple[int, int, int], layout: str) -> str:
    (enter, leave), dense = CONVERSIONS[layout], layers.dense_step(op)
    calls = {"sparse": SPARSE_STEP[layout](op, *size), "dense": lambda x: enter(dense(leave(x)))}
    x, least = enter(torch.ones(TRIED[layout], *size)), dict.fromkeys(calls, float("inf"))
    for _ in range(TURNS):
        for kind, call in calls.items():
            least[kind] = min(least[kind], timeit.timeit(partial(call, x), number=1))
    return "dense" if MARGIN * least["dense"] < least["sparse"] else "sparse"
