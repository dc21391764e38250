"""A network with fewer channels against unstructured zeros on the sparse kernel, each on its fastest fp32 kernel.

The rows of the study time networks without masks as PyTorch runs them, and the sparse kernel folds batch norm and fuses what
follows; here the smaller network gets as much: as it is, with batch norm folded (channels_last), and compiled. Its time depends
on its widths, which are the study's on CIFAR-10, and not on its weights, which are random. All sides take turns in one process.
The ratio is the sparse kernel's median over that of the smaller network's fastest way: above 1 removing channels is faster.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from bench.sparse_inference import in_turns, p90, pruned, scanned, stored, weights
from helpers import machine, models
from helpers.sparse import kernels
from helpers.sparse import network as execution

SPARSITIES = (0.8033, 0.875, 0.9375)
BATCHES = (128, 1)


def fewer_channels() -> models.VGG | None:
    """A network of the widths that the study's channel pruning chose on CIFAR-10; None without that result."""
    made = stored("lasso_channels")
    if made is None:
        return None
    torch.manual_seed(0)
    network = models.VGG(10, made["widths"]).eval()
    assert models.macs(network) == made["effective_macs"], "not the network of the result"
    return network


def dense_sides(network: models.VGG, compile_dense: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """The ways to run a network without zeros."""
    folded = models.fold_batch_norm(network).to(memory_format=torch.channels_last)
    calls = {"eager": network, "folded": lambda x: folded(x.to(memory_format=torch.channels_last))}
    if compile_dense:
        from torch import _inductor

        _inductor.config.freezing = True
        compiled = torch.compile(models.fold_batch_norm(network).to(memory_format=torch.channels_last), dynamic=False)
        calls["compiled"] = lambda x: compiled(x.to(memory_format=torch.channels_last))
    return calls


def run(quick: bool = False) -> list[dict]:
    """One row a batch size and sparsity; none where the study's rows are not there."""
    reason, network = kernels.available(), fewer_channels()
    if scanned() is None or network is None:
        reason = "the study's rows of CIFAR-10 are not there"
    if reason is not None:
        return [{"name": "structured inference", "ours_ms": None, "theirs_ms": None, "ratio": None, "goal": None, "note": reason}]
    rows = []
    for batch in BATCHES:
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        calls = dense_sides(network, not quick)
        calls |= {sparsity: execution.compile_sparse(pruned("layerwise", sparsity)[0]) for sparsity in SPARSITIES}
        times = in_turns(
            {side: lambda call=call, images=images: call(images) for side, call in calls.items()}, 1 if quick else 15
        )
        median = {side: statistics.median(values) for side, values in times.items()}
        dense = {side: median[side] for side in median if side not in SPARSITIES}
        fastest = min(dense, key=dense.get)
        listed = ", ".join(f"{side} {ms:.1f} ms" for side, ms in dense.items())
        for sparsity in SPARSITIES:
            rows.append(
                {
                    "name": f"fewer channels, batch {batch}, against layerwise {sparsity:.2%}",
                    "ours_ms": dense[fastest],
                    "theirs_ms": median[sparsity],
                    "ratio": median[sparsity] / dense[fastest],
                    "goal": None,
                    "note": f"{fastest}, of {listed}; p90 {p90(times[fastest]):.1f} against {p90(times[sparsity]):.1f} ms; "
                    f"{len(times[fastest])} turns, fp32, {torch.get_num_threads()} threads, {weights()}, {machine.processor()}",
                }
            )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="without torch.compile, a second a batch size")
    for row in run(parser.parse_args().quick):
        print(row["name"], row["ratio"], row["note"])
