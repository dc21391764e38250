"""Claims about structured against unstructured pruning: which of them is more accurate, at equal cost and on which task."""

import math
from collections.abc import Iterator, Mapping, Sequence

from helpers.report import style
from helpers.report.claims_accuracy import FINER, MAGNITUDE, brief, higher, top1
from helpers.report.evidence import COSTS, STRUCTURED, Missing, Rows, name, timed_at_best, unequal_kernels
from helpers.report.sentences import epochs_text
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

STRUCTURE = "Structured or unstructured"


def _unstructured(rows: Rows, dataset: str) -> list[list[Mapping]]:
    return [rows.find(dataset, MAGNITUDE), *([row] for row in rows.find(dataset, MAGNITUDE, "curve_finetuned"))]


def _blunter(kind: str):
    """A judge of "structured pruning is less accurate at equal `kind`".

    A network beats another when it costs no more and is more accurate beyond the noise: no interpolation. Each network
    is set against one of the other kind, the costliest that costs no more: chosen by cost alone, and few enough that
    the noise of the best of several comparisons can be allowed for.
    """

    def judge(rows: Rows, dataset: str) -> Judgement:
        networks = [n for n in (*_unstructured(rows, dataset), *rows.macs_curve(dataset)) if n]
        if {n[0]["method"] for n in networks} != {MAGNITUDE, STRUCTURED}:
            raise Missing(f"no fine-tuned rows of both kinds on {style.dataset(dataset)}")
        costs = _costs(rows, [n[0] for n in networks], kind)
        pairs = list(_pairs([n for n in networks if id(n[0]) in costs], costs))
        wins: dict[str, list[tuple[float, str]]] = {MAGNITUDE: [], STRUCTURED: []}
        for cheaper, dearer in pairs:
            compared = rows.compare(cheaper, dearer, tests=len(pairs))
            if higher(compared) == SUPPORTED:
                sides = (f"{_at(n, costs[id(n[0])], kind)}" for n in (cheaper, dearer))
                wins[cheaper[0]["method"]].append((compared.difference, f"{' against '.join(sides)}: {brief(compared)}"))
        verdict = UNDECIDED
        if bool(wins[MAGNITUDE]) != bool(wins[STRUCTURED]):
            verdict = SUPPORTED if wins[MAGNITUDE] else REFUTED
        counts = [len(wins[method]) for method in (MAGNITUDE, STRUCTURED)]
        evidence = f"Of {len(pairs)} pairs unstructured wins {counts[0]}, structured {counts[1]}"
        evidence += f", {len(pairs) - sum(counts)} {'is' if len(pairs) - sum(counts) == 1 else 'are'} inside the noise"
        shown = [f"most clearly {max(found)[1]}" for found in wins.values() if found]
        said = "; ".join([evidence, *shown])
        if kind == "latency":
            said += "; networks of the compression curve have the time of their masks, taken before they were fine-tuned"
        if kind == "latency" and verdict == SUPPORTED and not all(timed_at_best(n[0]) for n in networks):
            return Judgement(UNDECIDED, f"{said}. {unequal_kernels()}")
        return Judgement(verdict, f"{said}.")

    return judge


def _pairs(networks: Sequence[list[Mapping]], costs: Mapping[int, float]) -> Iterator[tuple[list[Mapping], list[Mapping]]]:
    """(cheaper, dearer): each network with the costliest of the other kind that costs no more, if there is one."""
    for dearer in networks:
        others = [n for n in networks if n[0]["method"] != dearer[0]["method"]]
        if cheaper := [n for n in others if costs[id(n[0])] <= costs[id(dearer[0])]]:
            yield max(cheaper, key=lambda n: costs[id(n[0])]), dearer


def _costs(rows: Rows, chosen: Sequence[Mapping], kind: str) -> dict[int, float]:
    """Costs by identity of the row, of those that have one; Missing when both kinds are not among them."""
    found, missing = {}, Missing(f"{kind} of no network")
    for row in chosen:
        try:
            found[id(row)] = rows.cost(row, kind)
        except Missing as reason:
            missing = reason
    if len({row["method"] for row in chosen if id(row) in found}) < 2:
        raise missing
    return found


def _at(rows: Sequence[Mapping], spent: float, kind: str) -> str:
    """A network with its cost and training: "layer-wise magnitude with 3.00 M weights after 4 epochs, 92.41 %"."""
    units = {"parameters": (1e-6, " M weights"), "MACs": (1e-6, " M MACs"), "bytes": (1, " MiB"), "latency": (1, " ms")}
    scale, unit = units[kind]
    trained = f"after {epochs_text(rows[0]['epochs'])}, {top1(rows)}"
    return f"{name(rows[0]['method'])} with {number_text(spent * scale, 2)}{unit} {trained}"


def _harder_when_finer(rows: Rows, dataset: str) -> Judgement:
    controls = {d: rows.seeds(d, "dense_finetuned") for d in ("cifar10", "cifar100")}
    gaps = {d: rows.compare(rows.structured(d), control) for d, control in controls.items()}
    easy, fine = gaps["cifar10"], gaps["cifar100"]
    difference = fine.difference - easy.difference
    reach = math.hypot(fine.total.high - fine.difference, easy.difference - easy.total.low)
    evidence = f"Against the fine-tuned dense network: {brief(easy)} on CIFAR-10, {brief(fine)} on CIFAR-100."
    if abs(difference) <= reach:
        return Judgement(UNDECIDED, evidence)
    return Judgement(SUPPORTED if difference < 0 else REFUTED, evidence)


def _keeps_learnt(rows: Rows, dataset: str) -> Judgement:
    pruned, scratch = rows.seeds(dataset, STRUCTURED), rows.seeds(dataset, "lasso_channels_from_scratch")
    compared = rows.compare(pruned, scratch)
    lengths = [epochs_text(rows[0]["epochs"]) for rows in (pruned, scratch)]
    parts = [
        f"{top1(pruned)} pruned and fine-tuned for {lengths[0]}, with the dense network's training behind it, {top1(scratch)} "
        f"from scratch at the same widths in {lengths[1]}: {brief(compared)}"
    ]
    for method in ("l1_filters", "random_channels"):
        if others := rows.find(dataset, method):
            parts.append(f"against {name(method)} at those widths {brief(rows.compare(pruned, others))}")
    untested = (
        "Whether a training from scratch as long as both of the pruned network's together would do better is not tested, and "
        "published for this method (Liu et al. 2019)"
    )
    return Judgement(higher(compared), f"{'; '.join(parts)}. {untested}.")


CLAIMS = (
    *(
        Claim(
            f"blunter_{kind.lower()}",
            STRUCTURE,
            f"Structured pruning is the blunter instrument, at equal {kind}",
            f"Fine-tuned networks, each against the costliest of the other kind with no more {kind}"
            + (", unstructured ones on this report's sparse kernel" if kind == "latency" else ""),
            _blunter(kind),
        )
        for kind in COSTS
    ),
    Claim(
        "harder_when_finer",
        STRUCTURE,
        "Structured pruning loses more on the more complex task",
        "Gap to the fine-tuned dense network, CIFAR-100 against CIFAR-10",
        _harder_when_finer,
        FINER,
    ),
    Claim(
        "keeps_learnt",
        STRUCTURE,
        "A network pruned by channels keeps what training has learnt",
        "The pruned network against one of the same widths trained from scratch; the other choices of channels beside it",
        _keeps_learnt,
        asked_here=True,
    ),
)
