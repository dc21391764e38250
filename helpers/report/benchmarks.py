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


def against_other_kernels(sparsity_pct: float) -> str:
    """The sparse kernel against the strongest ways to run CIFAR-10's dense network, as a sentence; "" where not measured."""
    ran = found("sparse_inference") or {"rows": []}
    ratios = _ratios(ran)
    said = []
    for rival, words in RIVALS.items():
        names = [f"layerwise {sparsity_pct / 100:.2%}, batch {batch}, against {rival}" for batch in (128, 1)]
        if all(name in ratios for name in names):
            many, one = (number_text(ratios[name], 2) for name in names)
            said.append(f"{many} times as fast as {words} at batch 128 and {one} times at batch 1")
    if not said:
        return ""
    machine = ran["machine"].split(";")[0]
    return f"In a benchmark of its own on CIFAR-10 ({machine}) that network is, on the same kernel, {'; '.join(said)}."
