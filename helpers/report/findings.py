"""What the first page says: five findings, each a headline and a few sentences, their figures computed from rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from helpers.report import channels, claims_accuracy, claims_cost, frontier, style
from helpers.report.claims_accuracy import MAGNITUDE, brief
from helpers.report.evidence import ABSOLUTE, GRASP, STRUCTURED, Missing, Rows, mean, smallest_file, value
from helpers.report.frontier import CHEAP
from helpers.report.sentences import epochs_text
from helpers.report.statistics import signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED


@dataclass(frozen=True)
class Finding:
    """A headline that states the answer, and the figures behind it."""

    headline: str
    text: str


def findings(rows: Iterable[Mapping]) -> list[Finding]:
    """The five findings; where a row is missing the finding says what is not measured."""
    known = Rows(rows)
    return [_written(known, write, question) for write, question in FINDINGS]


def answer(rows: Iterable[Mapping]) -> str | None:
    """Does pruning pay? What next to nothing of accuracy buys, in one sentence; None where it is not measured."""
    known = Rows(rows)
    try:
        chosen = {kind: {d: frontier.choices(known, d, kind)[CHEAP] for d in known.datasets} for kind in ("bytes", "latency")}
    except Missing:
        return None
    if not chosen["bytes"] or any(choice is None for found in chosen.values() for choice in found.values()):
        return None
    gains = {kind: _each(list(found), lambda d, f=found: number_text(f[d].gain, 2)) for kind, found in chosen.items()}
    named = f" ({_each(known.datasets, style.dataset)})" if len(known.datasets) > 1 else ""
    return (
        f"It does, in bytes and in time: {CHEAP} against that control, the file gets {gains['bytes']} times smaller and a "
        f"batch of 128 images runs {gains['latency']} times as fast as dense{named}, on a CPU and a kernel that skips zeros."
    )


def _written(rows: Rows, write: Callable[[Rows, list[str]], Finding], question: str) -> Finding:
    """The finding over all data sets that have its rows."""
    usable, reasons = [], []
    for dataset in rows.datasets:
        try:
            write(rows, [dataset])
            usable.append(dataset)
        except Missing as missing:
            reasons.append(str(missing))
    if not usable:
        return Finding(f"Not measured yet: {question}", f"Missing: {'; '.join(reasons) or 'every row'}.")
    found = write(rows, usable)
    names = f" ({_each(usable, style.dataset)})" if len(usable) > 1 else ""
    return Finding(found.headline + names, found.text + (f" Missing: {'; '.join(reasons)}." if reasons else ""))


def _each(datasets: list[str], text: Callable[[str], str]) -> str:
    """The same figure for every data set: "13.5 / 13.6", and once where it is the same: "7.52"."""
    return " / ".join(dict.fromkeys(text(dataset) for dataset in datasets))


def _together(verdicts: list[str]) -> str:
    return verdicts[0] if len(set(verdicts)) == 1 else UNDECIDED


def _boost(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)
    judged = [claims_accuracy.magnitude_boost(rows, d).verdict for d in datasets]
    pruned, control = ({d: rows.seeds(d, m) for d in datasets} for m in (MAGNITUDE, "dense_finetuned"))
    gaps = {d: rows.compare(pruned[d], control[d]) for d in datasets}
    points = each(lambda d: signed(gaps[d].difference))
    sparsity = number_text(value(pruned[datasets[0]][0], "sparsity_pct"), 2)
    headline = {
        REFUTED: f"Pruning {sparsity} % of the weights does not bring the {each(_their_jump)} points reported but {points}",
        SUPPORTED: f"Pruning {sparsity} % of the weights raises accuracy by {points} points",
        UNDECIDED: f"Whether pruning {sparsity} % of the weights raises accuracy is undecided: {points} points",
    }[_together(judged)]
    text = (
        f"Top-1 {each(lambda d: _top1(pruned[d]))} % pruned, {each(lambda d: _top1(control[d]))} % unpruned after "
        f"the same fine-tuning: {each(lambda d: brief(gaps[d]))}. The write-up reports {each(_their_jump)}."
    )
    try:
        wrong = {d: claims_accuracy.wrong_normalization(rows, d) for d in datasets}
    except Missing:
        return Finding(headline, text)
    shared = [n for n in claims_accuracy.NAMES if all(n in gains for _, gains in wrong.values())]
    if shared:
        first = shared[0]
        text += (
            f" Evaluated with a wrong normalisation ({first}) the unpruned network loses "
            f"{each(lambda d: number_text(wrong[d][0][first], 2))} points, and fine-tuning it unpruned brings "
            f"{each(lambda d: number_text(wrong[d][1][first], 2))}."
        )
    return Finding(headline, text)


def _top1(rows: list[Mapping]) -> str:
    return number_text(mean(rows, "top1_pct"), 2)


def _their_jump(dataset: str) -> str:
    jump = claims_accuracy.reported_top1(dataset, MAGNITUDE) - claims_accuracy.reported_top1(dataset, "dense")
    return signed(jump)


def _files(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)

    def smaller(dataset: str) -> float:
        return value(rows.one(dataset, "dense"), "size_mib") / smallest_file(rows.one(dataset, MAGNITUDE)).mib

    best = smallest_file(rows.one(datasets[0], MAGNITUDE))
    coo = each(lambda d: number_text(value(rows.one(d, MAGNITUDE), "size_coo_mib"), 2))
    times = each(lambda d: number_text(smaller(d), 2))
    return Finding(
        f"Stored as a {best.format}, the pruned network's file is {times} times smaller",
        f"{each(lambda d: number_text(smallest_file(rows.one(d, MAGNITUDE)).mib, 2))} MiB, exact to the bit, "
        f"where COO takes {coo} and the dense network "
        f"{each(lambda d: number_text(value(rows.one(d, 'dense'), 'size_mib'), 2))}.",
    )


def _sparse_speed(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)
    gains = {d: claims_cost.speed_up(rows, d, MAGNITUDE, "sparse_latency_batch128_ms") for d in datasets}
    single = each(lambda d: number_text(claims_cost.speed_up(rows, d, MAGNITUDE, "sparse_latency_ms"), 2))
    many = each(lambda d: number_text(gains[d], 2))
    pays = all(gain > 1 + claims_cost.SAME for gain in gains.values())
    headline = (
        f"Unstructured zeros do run faster, {many} times, once a kernel skips them"
        if pays
        else f"Unstructured zeros do not run clearly faster on this machine, even where a kernel skips them: {many} times"
    )
    macs = each(lambda d: number_text(rows.gain(rows.one(d, MAGNITUDE), "MACs"), 2))
    return Finding(
        headline,
        f"At batch 128 against the dense network as PyTorch runs it, {rows.one(datasets[0], MAGNITUDE)['device']}; "
        f"{single} times at batch 1, with {macs} times fewer multiplications.",
    )


def _structured(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)

    def times(dataset: str, kind: str) -> str:
        return number_text(rows.gain(rows.one(dataset, STRUCTURED), kind), 2)

    control = {d: rows.seeds(d, "dense_finetuned") for d in datasets}
    pruned = {d: rows.structured(d) for d in datasets}
    gaps = {d: rows.compare(pruned[d], control[d]) for d in datasets}
    text = (
        f"Top-1 after {each(lambda d: epochs_text(pruned[d][0]['epochs']))} against the dense network fine-tuned for "
        f"{each(lambda d: str(control[d][0]['epochs']))}: {each(lambda d: brief(gaps[d]))}."
    )
    try:
        scratch = {d: rows.compare(rows.seeds(d, STRUCTURED), rows.seeds(d, "lasso_channels_from_scratch")) for d in datasets}
        text += f" Against the same small network trained from scratch: {each(lambda d: brief(scratch[d]))}."
    except Missing:
        pass
    rivals = {d: rival for d in datasets if (rival := _as_fast(rows, d))}
    if rivals:
        text += " As fast or faster without removing a channel, on the kernel that skips zeros: " + "; ".join(
            f"{number_text(r['sparsity_pct'], 2)} % of the weights zeroed on {style.dataset(d)}, "
            f"{number_text(rows.gain(r, 'latency'), 2)} times, "
            f"{brief(rows.compare([r], rows.seeds(d, STRUCTURED)))} against it after "
            f"{epochs_text(rows.one(d, STRUCTURED)['epochs'])}"
            for d, r in rivals.items()
        )
        text += "."
    try:
        fast, single = (each(partial(times, kind=kind)) for kind in ("latency", "single"))
        speed, text = f", {fast} times faster", f"{text} The speed is that of batch 128; at batch 1 it is {single} times."
    except Missing:
        speed = ""
    fewer = each(lambda d: number_text(channels.fewer(rows, rows.one(d, STRUCTURED)), 2))
    points = each(lambda d: signed(gaps[d].difference))
    return Finding(f"Removing channels leaves {fewer} times fewer MACs{speed}, at {points} points", text)


def _as_fast(rows: Rows, dataset: str) -> Mapping | None:
    """The most accurate fine-tuned network with masks that runs as fast at batch 128 as the one with fewer channels."""
    own = rows.gain(rows.one(dataset, STRUCTURED), "latency")
    fast = []
    for row in rows.find(dataset, MAGNITUDE, "curve_finetuned"):
        try:
            if rows.gain(row, "latency") >= (1 - claims_cost.SAME) * own:
                fast.append(row)
        except Missing:
            continue
    return max(fast, key=lambda row: row["top1_pct"], default=None)


def _snip(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)
    snip, grasp = ({d: rows.seeds(d, m) for d in datasets} for m in ("snip", GRASP))
    absolute = {d: found for d in datasets if (found := rows.find(d, GRASP, ABSOLUTE))}
    gaps = {d: rows.compare(snip[d], grasp[d]) for d in datasets}
    points = each(lambda d: signed(gaps[d].difference))
    verdict = _together([claims_accuracy.higher(gap) for gap in gaps.values()])
    closer = {d: rows.compare(snip[d], found) for d, found in absolute.items()}
    if len(absolute) == len(datasets) and _together([claims_accuracy.higher(gap) for gap in closer.values()]) != verdict:
        winner = {SUPPORTED: "SNIP beats GraSP", REFUTED: "GraSP beats SNIP", UNDECIDED: "SNIP and GraSP are level"}[verdict]
        against = each(lambda d: signed(closer[d].difference))
        headline = f"{winner} only while GraSP's score keeps its sign: {points} points, {against} by the absolute score"
    else:
        headline = {
            SUPPORTED: f"SNIP would have done better than iterative GraSP, by {points} points",
            REFUTED: f"SNIP would not have done better than iterative GraSP: {points} points",
            UNDECIDED: f"Between SNIP and iterative GraSP the rows do not decide: {points} points",
        }[verdict]
    word = ""
    if absolute:
        named = f" ({_each(list(absolute), style.dataset)})" if len(absolute) < len(datasets) else ""
        word = f" Against GraSP with its absolute score at every stage{named}: "
        word += f"{_each(list(absolute), lambda d: brief(closer[d]))}."
    work = each(lambda d: number_text(value(snip[d][0], "effective_macs") / value(grasp[d][0], "effective_macs"), 2))
    return Finding(
        headline,
        f"Top-1 {each(lambda d: _top1(snip[d]))} % with SNIP, {each(lambda d: _top1(grasp[d]))} % with iterative GraSP, signed "
        f"at its first stage, at equal sparsity and training: {each(lambda d: brief(gaps[d]))}. "
        f"SNIP keeps {work} times the MACs.{word}",
    )


FINDINGS = (
    (_boost, "does pruning itself raise accuracy?"),
    (_files, "how small can the pruned network's file be?"),
    (_sparse_speed, "do unstructured zeros make inference faster?"),
    (_structured, "what does removing channels gain and cost?"),
    (_snip, "would SNIP have done better than GraSP?"),
)
