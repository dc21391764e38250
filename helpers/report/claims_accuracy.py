"""Claims about accuracy: what pruning does to it, and which way of pruning does it best."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from helpers.report import assignment, style
from helpers.report.evidence import ABSOLUTE, COSTS, GRASP, STRUCTURED, Missing, Rows, mean, name, value
from helpers.report.sentences import epochs_text
from helpers.report.statistics import Comparison, p_text, signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

ACCURACY, STRUCTURE = "Accuracy against the baseline", "Structured or unstructured"
MAGNITUDE = "layerwise_magnitude"
NAMES = ("half", "none", "imagenet")  # of wrong normalisations, the likeliest mistake first
WRONG = tuple(f"normalization={name}" for name in NAMES)
FINER = "cifar100"  # the data set of which the write-up says that GraSP fails
GRASP_SCORES = {"": "signed at its first stage", ABSOLUTE: "with its absolute score at every stage"}


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
    return Judgement(SUPPORTED if compared.total.low > claimed / 2 else UNDECIDED, evidence)


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


def by_score(rows: Rows, dataset: str, judge: Callable[[list[Mapping]], Judgement]) -> Judgement:
    """What is said of iterative GraSP has to hold for either of its scores: undecided where they differ."""
    judged = {"": judge(rows.seeds(dataset, GRASP))}
    if absolute := rows.find(dataset, GRASP, ABSOLUTE):
        judged[ABSOLUTE] = judge(absolute)
    verdicts = {judgement.verdict for judgement in judged.values()}
    evidence = "; ".join(f"{GRASP_SCORES[score]} {judgement.evidence}" for score, judgement in judged.items())
    return Judgement(verdicts.pop() if len(verdicts) == 1 else UNDECIDED, f"{name(GRASP)} {evidence}.")


def _grasp_fails(rows: Rows, dataset: str) -> Judgement:
    control = rows.seeds(dataset, "dense_from_scratch")
    # as a share: a short training leaves the dense network itself at a lower level, where fewer points can be lost
    claimed = 1 - reported_top1(FINER, GRASP) / reported_top1(FINER, "dense")

    def judge(pruned: list[Mapping]) -> Judgement:
        compared, dense = rows.compare(pruned, control), mean(control, "top1_pct")
        evidence = f"{top1(pruned)}, {brief(compared)}, {signed(100 * compared.difference / dense, 0)} % of the control's top-1"
        least, most = -compared.total.high / dense, -compared.total.low / dense
        if least > claimed / 2:
            return Judgement(SUPPORTED, evidence)
        return Judgement(REFUTED if most < claimed / 2 else UNDECIDED, evidence)

    told = by_score(rows, dataset, judge)
    control_text = f"The dense network with the same training has {top1(control)}"
    return Judgement(
        told.verdict, f"{control_text}; the write-up's GraSP loses {100 * claimed:.0f} % on CIFAR-100. {told.evidence}"
    )


def _criterion_fails(rows: Rows, dataset: str) -> Judgement:
    random = rows.seeds(dataset, "random")
    opposite = {SUPPORTED: REFUTED, REFUTED: SUPPORTED, UNDECIDED: UNDECIDED}

    def judge(pruned: list[Mapping]) -> Judgement:
        compared = rows.compare(pruned, random)
        return Judgement(opposite[higher(compared)], f"{top1(pruned)}, {brief(compared)}")

    told = by_score(rows, dataset, judge)
    return Judgement(told.verdict, f"Random masks with as many weights have {top1(random)}. {told.evidence}")


# Structured or unstructured ---------------------------------------------------------------------------------------


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
                sides = (f"{_at(n[0], costs[id(n[0])], kind)}" for n in (cheaper, dearer))
                wins[cheaper[0]["method"]].append((compared.difference, f"{' against '.join(sides)}: {brief(compared)}"))
        verdict = UNDECIDED
        if bool(wins[MAGNITUDE]) != bool(wins[STRUCTURED]):
            verdict = SUPPORTED if wins[MAGNITUDE] else REFUTED
        evidence = f"Of {len(pairs)} pairs unstructured wins {len(wins[MAGNITUDE])}, structured {len(wins[STRUCTURED])}"
        shown = [max(found)[1] for found in wins.values() if found]
        return Judgement(verdict, f"{'; '.join([evidence, *shown])}.")

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


def _at(row: Mapping, spent: float, kind: str) -> str:
    """A network with its cost and training: "layer-wise magnitude with 3.00 M weights after 4 epochs, 92.41 %"."""
    units = {"parameters": (1e-6, " M weights"), "MACs": (1e-6, " M MACs"), "bytes": (1, " MiB"), "latency": (1, " ms")}
    scale, unit = units[kind]
    trained = f"after {epochs_text(row['epochs'])}, {number_text(row['top1_pct'], 2)} %"
    return f"{name(row['method'])} with {number_text(spent * scale, 2)}{unit} {trained}"


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
        "Pruned against the unpruned network with the same fine-tuning: less than half the claimed gain refutes, more supports",
        _magnitude_boost,
    ),
    Claim(
        "only_pruning_explains",
        ACCURACY,
        "Only pruning explains the jump from the baseline",
        "The unpruned network under a wrong normalisation: half the jump lost, and gained by fine-tuning alone, refutes",
        _only_pruning_explains,
    ),
    Claim(
        "grasp_fails",
        ACCURACY,
        "GraSP fails on CIFAR-100",
        "Share of the dense network's top-1 lost, same training, with either score: over half the write-up's share supports, "
        "less refutes",
        _grasp_fails,
        FINER,
    ),
    Claim(
        "criterion_fails",
        ACCURACY,
        "Preserving gradient flow is no robust proxy for importance on a finer task",
        "Iterative GraSP with either score against random masks, same sparsity and training: above them refutes, below supports",
        _criterion_fails,
        FINER,
    ),
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
    ),
)
