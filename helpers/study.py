"""One row of the study: make it, store it, return the one that exists.

`compute` is what notebooks, `make study` and a cluster's workers call. A row is stored with what its network and its
training say at once; memory, latency and energy are added by `quiet.measure`, when nothing else runs.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from helpers import budget, files, machine, measurement, methods, models, plan, progress, quiet, results, settings, training
from helpers.context import Context
from helpers.models import VGG
from helpers.plan import Planned
from helpers.pruning import comparison
from helpers.pruning.masks import Masks, effective_macs
from helpers.results import RowKey
from helpers.settings import Profile
from helpers.sparse import storage

MIB = 2**20


def rows(profile: Profile, *topics: str, compute_missing: bool | None = None) -> list[dict]:
    """Every row of the plan that exists, in the plan's order, after computing the missing ones of these topics (or of all).

    By default only the demo computes what is missing; the larger profiles take hours and leave it to `make study`. All
    rows are returned, not only those of the topics: a figure is then the same on every page that shows it.
    """
    planned = plan.plan(profile)
    if compute_missing if compute_missing is not None else profile.name == "demo":
        wanted = [item.key for topic in topics or (None,) for item in plan.plan(profile, topic)]
        for key in wanted:
            compute(profile, key)
        quiet.measure(profile, [item.key for item in planned])
    found = (results.load_row(profile.name, item.key, budget.made_with(profile, item.key)) for item in planned)
    return quiet.of_one_run([row for row in found if row is not None])


def missing(profile: Profile, topic: str | None = None) -> list[Planned]:
    """What the plan has and the results folder has not."""
    return [
        item
        for item in plan.plan(profile, topic)
        if results.load_row(profile.name, item.key, budget.made_with(profile, item.key)) is None
    ]


def compute(profile: Profile, key: RowKey) -> dict:
    """The row of `key`: the stored one, or made now, stored and returned. Only one process makes a row at a time."""
    settings.choose(f"variant of {key.method}", key.variant, plan.variants(key.method))
    made_with = budget.made_with(profile, key)
    with files.lock(settings.lock_path(profile.name, key.dataset, key.row_id)):
        if (row := results.load_row(profile.name, key, made_with)) is not None:
            return row
        progress.say(f"{key.dataset} {key.row_id}: making the row")
        results.commit()  # looked up before the work, not after it: the tree may change meanwhile
        context = Context(profile, key)
        outcome = methods.MAKERS[key.method](context)
        row = _row(context, outcome)
        path = settings.network_path(profile.name, key.dataset, key.row_id)
        told = {"settings_hash": results.settings_hash(made_with), "trained": json.dumps(outcome.trained)}
        models.save(outcome.network, path, **told)
        row = results.save_row(profile.name, key, row, made_with)
        settings.checkpoint_path(profile.name, key.dataset, key.row_id).unlink(missing_ok=True)
    progress.say(f"{key.dataset} {key.row_id}: top-1 {row['top1_pct']:.2f} %")
    return row


def _row(context: Context, outcome: methods.Outcome) -> dict:
    """Everything a row holds before the quiet pass."""
    network, masks, splits = outcome.network, outcome.masks, context.splits
    untrained = outcome.untrained
    test = training.evaluate(network, splits.test) if outcome.trained or untrained is None else untrained
    val = training.evaluate(network, splits.val, dtype=machine.fast_dtype())
    recipe = budget.recipe(context.profile, context.key)
    parameters = [p for p in network.parameters()]
    params, nonzero = sum(p.numel() for p in parameters), sum(int(p.count_nonzero()) for p in parameters)
    dense_mib = measurement.file_size(network)
    layers = {layer.name: layer for layer in models.layer_table(network)}
    row = {
        "weights": outcome.weights,
        "params": params,
        "nonzero_params": nonzero,
        "size_mib": dense_mib,
        "size_dense_mib": dense_mib,
        "macs": measurement.macs_aten(network),
        "effective_macs": models.macs(network),
        "top1_pct": test.top1_pct,
        "top5_pct": test.top5_pct,
        "val_top1_pct": val.top1_pct,
        "pruned_top1_pct": untrained and untrained.top1_pct,
        "epochs": recipe.epochs if recipe else 0,
        "train_seconds": None if recipe else 0,  # null: trained, and nothing is told of it; what is told comes over it
        "log": None if recipe else [],
        "data_source": splits.source,
        "classes": list(splits.classes),
        "correct": results.pack_bits(test.correct),
        "test_images": len(splits.test),
        "reasons": quiet.pending(context.key),
    }
    if masks is not None:
        row |= _sizes(network) | {
            "sparsity_pct": 100 * masks.sparsity,
            "density_pct": 100 * masks.density,
            "effective_macs": effective_macs(network, masks),
        }
        row["size_mib"] = row["size_bitmask_mib"]
        kept = {layer.name.removesuffix(".weight"): layer for layer in masks.table()}
        row["layers"] = [asdict(kept[name]) | {"name": name, "macs": layer.macs} for name, layer in layers.items()]
    else:
        full = _full_size(context)
        row |= {"sparsity_pct": 100 * (1 - params / full), "density_pct": 100 * params / full}
        row["layers"] = [
            {"name": n, "kept": layer.parameters, "total": layer.parameters, "macs": layer.macs} for n, layer in layers.items()
        ]
    return row | results.provenance() | outcome.trained | outcome.extras


def _full_size(context: Context) -> int:
    """Parameters of the network before any channel was taken out."""
    return sum(p.numel() for p in context.new_network().parameters())


def _sizes(network: VGG) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = {f: storage.save(network, Path(folder) / f, f) / MIB for f in ("coo", "csr", "bitmask", "bitmask_fp16")}
    return {f"size_{name}_mib": size for name, size in sizes.items()} | {
        "entropy_bound_mib": storage.entropy_bound(network) / MIB
    }


def compare_masks(profile: Profile, dataset: str) -> dict[str, dict[str, dict[str, float]]]:
    """What the masks of every two saliency methods have in common (`comparison.matrix`).

    Stored beside the rows, since a fresh clone has the rows and not the networks. Made anew where networks are on disk
    whose rows it does not come from, unless others that it does come from are gone: it never loses what it knows. What it
    knows of rows that have been made anew since is not returned.
    """
    path = settings.results_dir(profile.name) / f"{dataset}-masks.json"
    try:
        stored = files.load_json(path) if path.is_file() else {"made_with": {}, "matrix": {}}
    except files.CorruptFile as error:
        progress.say(f"{error}")
        stored = {"made_with": {}, "matrix": {}}
    keys = [
        item.key
        for item in plan.plan(profile, "saliency")
        if item.key.dataset == dataset and item.key.sparsity_pct is not None and not item.key.variant
    ]
    made = {key: results.load_row(profile.name, key, budget.made_with(profile, key)) for key in keys}
    current = {key.method: row["settings_hash"] for key, row in made.items() if row is not None}
    paths = {key.method: settings.network_path(profile.name, dataset, key.row_id) for key in keys}
    on_disk = {method: paths[method] for method in current if models.is_of(paths[method], current[method])}
    known = [method for method, made_from in stored["made_with"].items() if current.get(method) == made_from]
    if not on_disk.keys() - known or set(known) - on_disk.keys():
        return {one: {other: stored["matrix"][one][other] for other in known} for one in known}
    matrix = comparison.matrix({method: Masks.from_zeros(models.load(network)) for method, network in on_disk.items()})
    files.save_json(path, {"made_with": {method: current[method] for method in on_disk}, "matrix": matrix})
    return matrix


# Command line ------------------------------------------------------------------------------------------------------


def main(arguments: Iterable[str] | None = None) -> int:
    """`python -m helpers.study`: compute what the plan has and the results folder has not, then the quiet pass."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", default=None)
    parser.add_argument("--tier", default="ABC", help="tiers to compute, e.g. A or AB")
    parser.add_argument("--topic", default=None, choices=plan.TOPICS)
    parser.add_argument("--dataset", default=None)
    parser.add_argument(
        "--quiet", action="store_true", help="only measure memory, latency and energy, of all rows with networks on disk, again"
    )
    parser.add_argument("--list", action="store_true", help="only say what is there and what is missing")
    options = parser.parse_args(arguments)
    profile = settings.profile(options.profile)
    if options.dataset:
        settings.choose("data set", options.dataset, profile.datasets)
    planned = [
        item
        for item in plan.plan(profile, options.topic)
        if item.tier in options.tier and options.dataset in (None, item.key.dataset)
    ]
    if options.list:
        absent = {item.key for item in missing(profile)}
        for item in planned:
            print(f"{item.tier} {item.key.dataset:9} {item.key.row_id:50} {'missing' if item.key in absent else 'there'}")
        return 0
    if not options.quiet:
        for item in planned:
            compute(profile, item.key)
    # every row, whatever was asked for: pages show one run, and one that timed a few would take the others' times from them
    quiet.measure(profile, [item.key for item in plan.plan(profile)], again=options.quiet)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; run it again to go on from the last finished epoch")
    except (ValueError, OSError, ArithmeticError, MemoryError, files.Busy) as error:
        sys.exit(f"{type(error).__name__}: {error}")
