"""Layers of VGG16-BN in 8-bit whole numbers on their non-zero blocks of four weights, against float32 on the same zeros.

Both sides take turns in one process. A note tells how many multiply-adds a second a dense layer of the same shape would need
to be as fast, and what oneDNN's dense float32 takes.
"""

import statistics

import torch

from bench.sparse_inference import in_turns, trained
from helpers import machine, models
from helpers.pruning import masks, regression, repair
from helpers.sparse import layers, quantised
from helpers.sparse import network as execution

SPARSITIES = (0.8, 0.9)


def in_blocks(sparsity: float) -> models.VGG:
    """The network with the largest blocks of four neighbouring input channels left in each layer."""
    network, _ = trained()
    kept = {}
    for name, weight in models.weights(network).items():
        taps = weight.flatten(2).shape[2] if weight.dim() == 4 else 1
        matrix, count = regression.matrix(weight, taps), masks.kept_count(weight.numel(), sparsity)
        kept[name] = regression.unmatrix(repair.keep_blocks(matrix, count, quantised.BLOCK, taps), taps, weight.shape)
    masks.Masks(network, kept).apply(network)
    return network


def by_layer(sparsity: float, batch: int, seconds: float) -> list[dict]:
    """One row a layer, each side in its own layout."""
    network, images = in_blocks(sparsity), torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ops = execution.operations(network)
    _, whole = quantised.quantised(ops, images)
    layout = execution.layout_of(images)
    rows, x = [], images
    for q, (op, size) in zip(whole, execution.sized(ops, images.shape[1:]), strict=True):
        drawn = torch.randint(0, 256, (batch, *size), dtype=torch.uint8)
        sides = {"ours": (quantised.STEPS[layout](q, *size), quantised.elements(drawn, layout))}
        sides["theirs"] = execution.SPARSE_STEP[layout](op, *size), execution.CONVERSIONS[layout][0](x)
        dense = layers.dense_step(op)
        sides["dense"] = dense, x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        times = in_turns({side: lambda call=call, x=given: call(x) for side, (call, given) in sides.items()}, seconds)
        median = {side: statistics.median(found) for side, found in times.items()}
        macs = batch * op.weight.numel() * (1 if op.linear else size[1] * size[2])
        note = f"as {macs / median['ours'] / 1e6:.0f} GMAC/s dense; dense float32 {median['dense']:.3g} ms"
        both = {"ours_ms": median["ours"], "theirs_ms": median["theirs"], "ratio": median["theirs"] / median["ours"]}
        name = f"{op.name} {'x'.join(map(str, size))} in int8, {sparsity:.0%} of blocks, batch {batch}, against float32"
        where = f"{torch.get_num_threads()} threads, {machine.processor()}"
        rows.append({"name": name, **both, "note": f"{note}; {where}"})
        x = dense(x)
    return rows


def run(quick: bool = False) -> list[dict]:
    """Rows with name, ours_ms, theirs_ms, ratio, goal (none is set) and note."""
    if reason := quantised.available():
        return [{"name": "int8 inference", "note": reason}]
    cases = [(0.8, 32)] if quick else [(sparsity, batch) for batch in (1, 128) for sparsity in SPARSITIES]
    return [row for sparsity, batch in cases for row in by_layer(sparsity, batch, 0.1 if quick else 0.5)]
