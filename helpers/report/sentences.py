"""The sentences every notebook needs: what is seen under a figure, and what stands where its rows are missing."""

from collections.abc import Callable, Iterable, Sequence

from IPython.display import Markdown

from helpers.plan import Planned
from helpers.report import style
from helpers.report.evidence import Missing, Rows
from helpers.report.statistics import Comparison, p_text, signed
from helpers.report.tables import number_text

SEEN = "**What is seen.**"


def absent(what: str) -> Markdown:
    """What stands in place of something whose rows do not exist."""
    return Markdown(f"*Missing: {what}; `make study` computes it.*")


def missing(planned: Sequence[Planned]) -> Markdown:
    """The rows of the plan that this page would show and that do not exist, folded up, each once for all its data sets."""
    if not planned:
        return Markdown("Every row that this page reads is there.")
    lacking: dict[str, list[str]] = {}
    for item in planned:
        lacking.setdefault(item.key.row_id, []).append(style.dataset(item.key.dataset))
    together: dict[str, list[str]] = {}
    for row_id, names in lacking.items():
        together.setdefault(" and ".join(sorted(names)), []).append(f"<code>{row_id}</code>")
    listed = "".join(f"<li>{names}: {', '.join(ids)}</li>" for names, ids in sorted(together.items()))
    count = f"{len(planned)} row{' is' if len(planned) == 1 else 's are'}"
    lead = f"{count} not computed yet; <code>make study</code> computes what is missing, most important first."
    return Markdown(f"<details><summary>{lead}</summary><ul>{listed}</ul></details>")


def layer_labels(names: Iterable[str]) -> list[str]:
    """State-dict prefixes in forward order → "conv 1" … "fc 1" …"""
    labels, counts = [], {"conv": 0, "fc": 0}
    for name in names:
        kind = "conv" if name.startswith("features") else "fc"
        counts[kind] += 1
        labels.append(f"{kind} {counts[kind]}")
    return labels


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def epochs_text(count: int) -> str:
    return counted(count, "epoch")


def seeds_text(count: int) -> str:
    """Behind an accuracy: of how many seeds it is the mean; nothing where it is one network's own."""
    return f", the mean of {count} seeds" if count > 1 else ""


def without(compared: Comparison) -> str:
    """What is said of a comparison's trainings that were left out of it."""
    return f"; {counted(compared.left_out, 'training')} in another number format left out" if compared.left_out else ""


def phrase(comparison: Comparison, a: str, b: str) -> str:
    """A comparison in words that claim no more than it shows."""
    detail = (
        f"95 % interval {signed(comparison.total.low)} to {signed(comparison.total.high)} with seed noise, "
        f"{signed(comparison.images.low)} to {signed(comparison.images.high)} from the test images alone; "
        f"McNemar {p_text(comparison.p)}{without(comparison)}"
    )
    if comparison.beyond_noise and comparison.formats:
        trained = " and ".join(comparison.formats)
        return (
            f"undecided between {a} and {b}: they were trained in {trained}, and a difference of "
            f"{signed(comparison.difference)} points ({detail}) may be the number format's"
        )
    if comparison.decided:
        word = "above" if comparison.difference > 0 else "below"
        return f"{a} is {number_text(abs(comparison.difference), 2)} points {word} {b} ({detail})"
    return (
        f"undecided between {a} and {b}: a difference of {signed(comparison.difference)} points lies inside the noise ({detail})"
    )


def told(rows: Rows, tell: Callable[[str], str | list[str]]) -> Markdown:
    """`tell(dataset)` for every data set, one point each, what is missing named.

    A list is a sentence to begin with and the points under it.
    """
    points: list[list[str]] = []
    for dataset in rows.datasets:
        try:
            said = tell(dataset)
        except Missing as gap:
            said = f"Not told for {style.dataset(dataset)}: {gap}."
        points.append([said] if isinstance(said, str) else said)
    if len(points) == 1 and len(points[0]) == 1:
        return Markdown(f"{SEEN} {points[0][0]}")
    lines = [f"{'  - ' if under else '- '}{text.strip()}" for point in points for under, text in enumerate(point)]
    return Markdown("\n".join([SEEN, "", *lines]))
