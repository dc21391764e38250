"""Claims about accuracy: what pruning does to it, and which way of pruning does it best."""

import math
from collections.abc import Mapping, Sequence

from helpers.report import assignment, style
from helpers.report.claims_cost import STRUCTURED
from helpers.report.evidence import COSTS, Missing, Rows, mean, name, value
from helpers.report.statistics import Comparison, p_text, signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

ACCURACY, STRUCTURE = "Accuracy against the baseline", "Structured or unstructured"
MAGNITUDE, GRASP = "layerwise_magnitude", "grasp_iterative"
NAMES = ("half", "none", "imagenet")  # of wrong normalisations, the likeliest mistake first
WRONG = tuple(f"normalization={name}" for name in NAMES)
FINER = "cifar100"  # the data set of which the write-up says that GraSP fails


def brief(compared: Comparison) -> str:
    """A difference as short as it can honestly be."""
    interval = f"{signed(compared.total.low)} to {signed(compared.total.high)}"
    return f"{signed(compared.difference)} points ({interval}, {p_text(compared.p)})"


def top1(rows: Sequence[Mapping]) -> str:
    return f"{number_text(mean(list(rows), 'top1_pct'), 2)} %"


def reported_top1(dataset: str, method: str) -> float:
    """The write-up's top-1; where the data set is not one of its own, that of its CIFAR-10."""
    return assignment.reported(dataset, method, "top1_pct") or assignment.reported("cifar10", method, "top1_pct")


def higher(compared: Comparison) -> str:
    """The verdict on "a is more accurate than b"."""
    if not compared.decided:
        return UNDECIDED
    return SUPPORTED if compared.difference > 0 else REFUTED


# Against the baseline ---------------------------------------------------------------------------------------------


def _magnitude_boost(rows: Rows, dataset: str) -> Judgement:
    pruned, control = rows.seeds(dataset, MAGNITUDE), rows.seeds(dataset, "dense_finetuned")
    compared, claimed = rows.compare(pruned, control), reported_top1(dataset, MAGNITUDE) - reported_top1(dataset, "dense")
    before = top1([rows.one(dataset, "dense")])
    evidence = (
        f"{top1(pruned)} pruned, {top1(control)} unpruned with the same fine-tuning, {before} before either: "
        f"pruning itself brings {brief(compared)}; the write-up reports {signed(claimed)}."
    )
    if compared.total.high < claimed / 2:  # also where a small gain is left that is no noise
        return Judgement(REFUTED, evidence)
    return Judgement(SUPPORTED if higher(compared) == SUPPORTED else UNDECIDED, evidence)


def wrong_normalization(rows: Rows, dataset: str) -> tuple[dict[str, float], dict[str, float]]:
    """Points the unpruned network loses under each wrong normalisation, and points it gains when fine-tuned under it."""
    dense = rows.one(dataset, "dense")
    # the data set's own normalisation is among the names; its row has the same bits
    found = {v: row for v in WRONG for row in rows.find(dataset, "dense", v)[:1] if row.get("correct") != dense.get("correct")}
    if not found:
        raise Missing(f"no row of the dense network under a wrong normalisation on {style.dataset(dataset)}")
    drops = {v.partition("=")[2]: value(dense, "top1_pct") - value(row, "top1_pct") for v, row in found.items()}
    tuned = {v: row for v in found for row in rows.find(dataset, "dense_finetuned", v)[:1]}
    gains = {v.partition("=")[2]: value(row, "top1_pct") - value(found[v], "top1_pct") for v, row in tuned.items()}
    return drops, gains


def _only_pruning_explains(rows: Rows, dataset: str) -> Judgement:
    drops, gains = wrong_normalization(rows, dataset)
    claimed = reported_top1(dataset, MAGNITUDE) - reported_top1(dataset, "dense")
    evidence = f"Unpruned, with a wrong normalisation: {', '.join(f'{n} {signed(-drop)}' for n, drop in drops.items())} points"
    if gains:
        regained = ", ".join(f"{n} {signed(gain)}" for n, gain in gains.items())
        evidence += f"; fine-tuned with it, still unpruned: {regained} points"
    evidence += f". The write-up's jump is {signed(claimed)}."
    if any(drops[n] >= claimed / 2 and gain >= claimed / 2 for n, gain in gains.items()):
        return Judgement(REFUTED, evidence)
    small = max(drops.values()) < claimed / 4 or (gains and max(gains.values()) < claimed / 4)
    return Judgement(SUPPORTED if small else UNDECIDED, evidence)


def _grasp_fails(rows: Rows, dataset: str) -> Judgement:
    pruned, control = rows.seeds(dataset, GRASP), rows.seeds(dataset, "dense_from_scratch")
    compared, dense = rows.compare(pruned, control), mean(control, "top1_pct")
    # as a share: a short training leaves the dense network itself at a lower level, where fewer points can be lost
    claimed = 1 - reported_top1(FINER, GRASP) / reported_top1(FINER, "dense")
    evidence = (
        f"{top1(pruned)} against {top1(control)} for the dense network with the same training: {brief(compared)}, "
        f"{-compared.difference / dense:.0%} of its top-1; the write-up's network loses {claimed:.0%} on CIFAR-100."
    )
    least, most = -compared.total.high / dense, -compared.total.low / dense
    if least > claimed / 2:
        return Judgement(SUPPORTED, evidence)
    return Judgement(REFUTED if most < claimed / 2 else UNDECIDED, evidence)


def _criterion_fails(rows: Rows, dataset: str) -> Judgement:
    pruned, random = rows.seeds(dataset, GRASP), rows.seeds(dataset, "random")
    compared = rows.compare(pruned, random)
    evidence = f"{top1(pruned)} against {top1(random)} for random masks with as many weights: {brief(compared)}."
    verdict = {SUPPORTED: REFUTED, REFUTED: SUPPORTED}.get(higher(compared), UNDECIDED)
    return Judgement(verdict, evidence)


# Structured or unstructured ---------------------------------------------------------------------------------------


def _unstructured(rows: Rows, dataset: str) -> list[Mapping]:
    return rows.find(dataset, MAGNITUDE) + rows.find(dataset, MAGNITUDE, "curve_finetuned")


def _structured(rows: Rows, dataset: str) -> list[Mapping]:
    return [
        r
        for r in rows.all
        if (r["dataset"], r["method"]) == (dataset, STRUCTURED) and (r.get("variant") or "macs=")[:5] == "macs="
    ]


def _blunter(kind: str):
    """A judge of "structured pruning is less accurate at equal `kind`".

    A network beats another when it costs no more and is more accurate beyond the noise: no interpolation.
    """

    def judge(rows: Rows, dataset: str) -> Judgement:
        fine, blunt = _unstructured(rows, dataset), _structured(rows, dataset)
        if not fine or not blunt:
            raise Missing(f"no fine-tuned rows of both kinds on {style.dataset(dataset)}")
        first = _costs(rows, (*fine, *blunt), kind)
        fine, blunt = ([row for row in group if id(row) in first] for group in (fine, blunt))
        wins: dict[str, list[tuple[float, str]]] = {SUPPORTED: [], REFUTED: []}
        pairs = [(f, b, first[id(f)] <= first[id(b)], first[id(b)] <= first[id(f)]) for f in fine for b in blunt]
        for f, b, fine_is_cheaper, blunt_is_cheaper in pairs:
            gap = f["top1_pct"] - b["top1_pct"]
            if (fine_is_cheaper and gap > 0) or (blunt_is_cheaper and gap < 0):
                compared = rows.compare([f], [b])
                if compared.decided:
                    wins[higher(compared)].append(
                        (abs(gap), f"{_at(f, first[id(f)], kind)} against {_at(b, first[id(b)], kind)}: {brief(compared)}")
                    )
        verdict = UNDECIDED if bool(wins[SUPPORTED]) == bool(wins[REFUTED]) else max(wins, key=lambda v: len(wins[v]))
        texts = [
            f"{who}: {max(wins[v])[1]}" for v, who in ((SUPPORTED, "unstructured wins"), (REFUTED, "structured wins")) if wins[v]
        ]
        nothing = f"Pairs in which one network costs no more and wins beyond the noise: 0 of {len(pairs)}"
        nothing += f"; {_at(blunt[0], first[id(blunt[0])], kind)}"
        return Judgement(verdict, f"{'; '.join(texts) or nothing}.")

    return judge


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


def _at(row: Mapping, spent: float, kind: str) -> str:
    """A network with its cost: "layer-wise magnitude with 3.00 M weights, 92.41 %"."""
    units = {"parameters": (1e-6, " M weights"), "MACs": (1e-6, " M MACs"), "bytes": (1, " MiB"), "latency": (1, " ms")}
    scale, unit = units[kind]
    return f"{name(row['method'])} with {number_text(spent * scale, 2)}{unit}, {number_text(row['top1_pct'], 2)} %"


def _harder_when_finer(rows: Rows, dataset: str) -> Judgement:
    gaps = {d: rows.compare(rows.seeds(d, STRUCTURED), rows.seeds(d, "dense_finetuned")) for d in ("cifar10", "cifar100")}
    easy, fine = gaps["cifar10"], gaps["cifar100"]
    difference = fine.difference - easy.difference
    reach = math.hypot(fine.total.high - fine.difference, easy.difference - easy.total.low)
    evidence = f"Against the fine-tuned dense network: {brief(easy)} on CIFAR-10, {brief(fine)} on CIFAR-100."
    if abs(difference) <= reach:
        return Judgement(UNDECIDED, evidence)
    return Judgement(SUPPORTED if difference < 0 else REFUTED, evidence)


def _selection_pays(rows: Rows, dataset: str) -> Judgement:
    pruned, scratch = rows.seeds(dataset, STRUCTURED), rows.seeds(dataset, "lasso_channels_from_scratch")
    compared = rows.compare(pruned, scratch)
    parts = [f"{top1(pruned)} pruned and fine-tuned, {top1(scratch)} from scratch at the same widths: {brief(compared)}"]
    for method in ("l1_filters", "random_channels"):
        if others := rows.find(dataset, method):
            parts.append(f"against {name(method)} at those widths {brief(rows.compare(pruned, others))}")
    return Judgement(higher(compared), f"{'; '.join(parts)}.")


CLAIMS = (
    Claim(
        "magnitude_boost",
        ACCURACY,
        "Magnitude pruning regularises, and so brings the large boost in accuracy",
        "Pruned against the unpruned network with the same fine-tuning; half the claimed gain ruled out refutes",
        _magnitude_boost,
    ),
    Claim(
        "only_pruning_explains",
        ACCURACY,
        "The jump from the baseline is pruning's doing",
        "The unpruned network under a wrong normalisation: half the jump lost, and gained by fine-tuning alone, refutes",
        _only_pruning_explains,
    ),
    Claim(
        "grasp_fails",
        ACCURACY,
        "GraSP fails on CIFAR-100",
        "Share of the dense network's top-1 lost, same training: more than half the write-up's share supports, less refutes",
        _grasp_fails,
        FINER,
    ),
    Claim(
        "criterion_fails",
        ACCURACY,
        "Preserving gradient flow is no robust proxy for importance on a finer task",
        "Iterative GraSP against random masks at equal sparsity and training: above them refutes, below supports",
        _criterion_fails,
        FINER,
    ),
    *(
        Claim(
            f"blunter_{kind.lower()}",
            STRUCTURE,
            f"Structured pruning is the blunter instrument, at equal {kind}",
            f"Networks of both kinds, fine-tuned: which is more accurate at no more {kind}",
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
        "selection_pays",
        STRUCTURE,
        "Choosing channels by regression keeps what training has learnt",
        "The pruned network against one of the same widths trained from scratch",
        _selection_pays,
    ),
)
