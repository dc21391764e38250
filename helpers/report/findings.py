"""What the first page says: five findings, each a headline and a few sentences, their figures computed from rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from helpers.report import channels, claims_accuracy, claims_cost, sparse_costs, style
from helpers.report.claims_accuracy import MAGNITUDE, brief
from helpers.report.evidence import ABSOLUTE, GRASP, Missing, Rows, mean, smallest_file, timed_at_best, unequal_kernels, value
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
    shared = [n for n in claims_accuracy.WRONG if all(n in gains for _, gains in wrong.values())]
    if shared:
        first = shared[0]
        text += (
            f" Evaluated with a wrong normalisation ({claims_accuracy.WRONG[first]}) the unpruned network loses "
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
    pruned = {d: rows.one(d, MAGNITUDE) for d in datasets}
    value(pruned[datasets[0]], "sparse_latency_batch128_ms")  # or Missing, with the reason
    gains = {d: rows.gain(row, "latency") for d, row in pruned.items()}
    single = each(lambda d: number_text(rows.gain(pruned[d], "single"), 2))
    many = each(lambda d: number_text(gains[d], 2))
    pays = all(gain > 1 + claims_cost.SAME for gain in gains.values())
    headline = (
        f"Unstructured zeros do run faster, {many} times, once a kernel skips them"
        if pays
        else f"Unstructured zeros do not run clearly faster on this machine, even where a kernel skips them: {many} times"
    )
    macs = each(lambda d: number_text(rows.gain(pruned[d], "MACs"), 2))
    told = [
        f"At batch 128, {pruned[datasets[0]]['device']}; {single} times at batch 1, with {macs} times fewer multiplications.",
        sparse_costs.dense_run(rows, datasets[0]),
        *(sparse_costs.benchmarked(rows, d) for d in datasets),
    ]
    return Finding(headline, " ".join(filter(None, told)))


def _structured(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)
    control = {d: rows.seeds(d, "dense_finetuned") for d in datasets}
    pruned = {d: rows.structured(d) for d in datasets}
    gaps = {d: rows.compare(pruned[d], control[d]) for d in datasets}
    text = (
        f"Top-1 after {each(lambda d: epochs_text(pruned[d][0]['epochs']))} against the dense network fine-tuned for "
        f"{each(lambda d: str(control[d][0]['epochs']))}: {each(lambda d: brief(gaps[d]))}."
    )
    try:
        scratch = {d: rows.seeds(d, "lasso_channels_from_scratch") for d in datasets}
        apart = each(lambda d: brief(rows.compare(pruned[d], scratch[d])))
        text += (
            f" Against the same small network trained from nothing for {each(lambda d: epochs_text(scratch[d][0]['epochs']))}, "
            f"without the dense network's training behind it: {apart}."
        )
    except Missing:
        pass
    rivals = {d: rival for d in datasets if (rival := _as_fast(rows, d))}
    if rivals and not all(timed_at_best(pruned[d][0]) for d in rivals):
        text += f" {unequal_kernels()}"
    elif rivals:
        text += (
            f" As fast, to {100 * claims_cost.SAME:.0f} %, without removing a channel, on the kernel that skips zeros: "
            + "; ".join(
                f"{number_text(r['sparsity_pct'], 2)} % of the weights zeroed on {style.dataset(d)}, "
                f"{number_text(rows.gain(r, 'latency'), 2)} times, after {epochs_text(r['epochs'])} "
                f"{brief(rows.compare([r], pruned[d]))} against it"
                for d, r in rivals.items()
            )
        )
        text += "."
    try:
        fast = each(lambda d: number_text(rows.gain(pruned[d][0], "latency"), 2))
        ranges = [[number_text(gain, 1) for gain in rows.gains(pruned[d][0], "single")] for d in datasets]
        single = " / ".join(dict.fromkeys(low if low == high else f"{low} to {high}" for low, high in ranges))
        speed = f", {fast} times faster"
        text += f" The speed is that of batch 128; at batch 1 networks of this shape are {single} times faster."
    except Missing:
        speed = ""
    fewer = each(lambda d: number_text(channels.fewer(rows, pruned[d][0]), 2))
    points = each(lambda d: signed(gaps[d].difference))
    return Finding(f"Removing channels leaves {fewer} times fewer MACs{speed}, at {points} points", text)


def _as_fast(rows: Rows, dataset: str) -> Mapping | None:
    """The most accurate fine-tuned network with masks that runs as fast at batch 128 as the one with fewer channels."""
    try:
        own = rows.gain(rows.structured(dataset)[0], "latency")
    except Missing:
        return None
    fast = []
    for row in rows.find(dataset, MAGNITUDE, "curve_finetuned"):
        try:
            if rows.gain(row, "latency") >= (1 - claims_cost.SAME) * own:
                fast.append(row)
        except Missing:
            continue
    return max(fast, key=lambda row: row["top1_pct"], default=None)


SIGNED = {
    SUPPORTED: "SNIP ends above iterative GraSP, signed at its first stage, by {} points",
    REFUTED: "SNIP ends below iterative GraSP, signed at its first stage: {} points",
    UNDECIDED: "Between SNIP and iterative GraSP, signed at its first stage, nothing is decided: {} points",
}
BY_ABSOLUTE = {
    SUPPORTED: "above it with the score's absolute value throughout by {}",
    REFUTED: "below it with the score's absolute value throughout: {}",
    UNDECIDED: "with the score's absolute value throughout nothing is decided: {}",
}


def _snip(rows: Rows, datasets: list[str]) -> Finding:
    each = partial(_each, datasets)
    snip, grasp = ({d: rows.seeds(d, m) for d in datasets} for m in ("snip", GRASP))
    absolute = {d: found for d in datasets if (found := rows.find(d, GRASP, ABSOLUTE))}
    gaps = {d: rows.compare(snip[d], grasp[d]) for d in datasets}
    points = each(lambda d: signed(gaps[d].difference))
    verdict = _together([claims_accuracy.higher(gap) for gap in gaps.values()])
    closer = {d: rows.compare(snip[d], found) for d, found in absolute.items()}
    if len(absolute) == len(datasets):
        against = each(lambda d: signed(closer[d].difference))
        second = _together([claims_accuracy.higher(gap) for gap in closer.values()])
        headline = f"{SIGNED[verdict].format(points)}; {BY_ABSOLUTE[second].format(against)}"
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
        f"at its first stage, at equal sparsity and training, {each(lambda d: epochs_text(snip[d][0]['epochs']))}: "
        f"{each(lambda d: brief(gaps[d]))}. "
        f"SNIP keeps {work} times the MACs.{word}",
    )


FINDINGS = (
    (_boost, "does pruning itself raise accuracy?"),
    (_files, "how small can the pruned network's file be?"),
    (_sparse_speed, "do unstructured zeros make inference faster?"),
    (_structured, "what does removing channels gain and cost?"),
    (_snip, "would SNIP have done better than GraSP?"),
)
