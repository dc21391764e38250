"""What the benchmarks found, where a sentence of a page needs it beside the rows."""

from collections.abc import Mapping

from helpers import files, progress, settings
from helpers.report.tables import number_text

PATH = settings.ROOT / "results" / "bench.json"
RIVALS = {"compiled": "the dense network compiled by torch.compile", "bf16": "the dense network in bfloat16"}


def found(script: str) -> Mapping | None:
    """A benchmark's rows and the machine they were taken on; None where it was not run or its file is damaged."""
    try:
        return files.load_json(PATH).get(script) if PATH.is_file() else None
    except files.CorruptFile as error:
        progress.say(f"{error}")
        return None


def _ratios(ran: Mapping) -> dict[str, float]:
    return {row["name"]: row["ratio"] for row in ran["rows"] if row.get("ratio") is not None}


def channels_against_zeros() -> str:
    """A network with fewer channels on its fastest kernel against zeros on theirs, as a sentence; "" where not measured."""
    ran = found("structured_inference") or {"rows": []}
    ratios = _ratios(ran)
    batches = {batch: {n: r for n, r in ratios.items() if f"batch {batch}, " in n} for batch in (128, 1)}
    if not all(batches.values()):
        return ""
    nearest = {batch: min(measured, key=measured.get) for batch, measured in batches.items()}
    said = [
        f"{number_text(ratios[name], 2)} times as fast as {name.split()[-1].replace('%', ' %')} zeros at batch {batch}"
        for batch, name in nearest.items()
    ]
    machine = ran["machine"].split(";")[0]
    return f"In a benchmark of CIFAR-10's networks that gives it as much ({machine}) it is {' and '.join(said)}."


def over_rivals(sparsity_pct: float, batch: int) -> dict[str, float]:
    """How many times as fast the sparse kernel is as each stronger way to run CIFAR-10's dense network; those measured."""
    ratios = _ratios(found("sparse_inference") or {"rows": []})
    names = {words: f"layerwise {sparsity_pct / 100:.2%}, batch {batch}, against {rival}" for rival, words in RIVALS.items()}
    return {words: ratios[name] for words, name in names.items() if name in ratios}


def against_other_kernels(sparsity_pct: float) -> str:
    """The sparse kernel against the strongest ways to run CIFAR-10's dense network, as a sentence; "" where not measured."""
    many, one = (over_rivals(sparsity_pct, batch) for batch in (128, 1))
    said = [
        f"{number_text(many[words], 2)} times as fast as {words} at batch 128 and {number_text(one[words], 2)} times at batch 1"
        for words in RIVALS.values()
        if words in many and words in one
    ]
    if not said:
        return ""
    machine = found("sparse_inference")["machine"].split(";")[0]
    return f"In a benchmark of its own on CIFAR-10 ({machine}) that network is, on the same kernel, {'; '.join(said)}."
