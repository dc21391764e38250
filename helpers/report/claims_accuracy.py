"""Claims about accuracy against the baseline: what magnitude pruning and GraSP do to it."""

from collections.abc import Callable, Mapping, Sequence

from helpers.report import assignment, style
from helpers.report.evidence import ABSOLUTE, GRASP, Missing, Rows, mean, name, value
from helpers.report.sentences import without
from helpers.report.statistics import Comparison, p_text, signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

ACCURACY = "Accuracy against the baseline"
MAGNITUDE = "layerwise_magnitude"
# wrong normalisations, the likeliest mistake first, and what the pages call them
WRONG = {"half": "mean and deviation ½", "none": "no normalisation", "imagenet": "ImageNet's"}
FINER = "cifar100"  # the data set of which the write-up says that GraSP fails
GRASP_SCORES = {"": "signed at its first stage", ABSOLUTE: "with its absolute score at every stage"}


def brief(compared: Comparison) -> str:
    """A difference as short as it can honestly be."""
    interval = f"{signed(compared.total.low)} to {signed(compared.total.high)}"
    trained = f"; trained in {' and '.join(compared.formats)}" if compared.formats else ""
    return f"{signed(compared.difference)} points ({interval}, {p_text(compared.p)}{trained}{without(compared)})"


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


def magnitude_boost(rows: Rows, dataset: str) -> Judgement:
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
    variants = {f"normalization={name}": name for name in WRONG}
    found = {v: row for v in variants for row in rows.find(dataset, "dense", v)[:1] if row.get("correct") != dense.get("correct")}
    if not found:
        raise Missing(f"no row of the dense network under a wrong normalisation on {style.dataset(dataset)}")
    drops = {variants[v]: value(dense, "top1_pct") - value(row, "top1_pct") for v, row in found.items()}
    tuned = {v: row for v in found for row in rows.find(dataset, "dense_finetuned", v)[:1]}
    gains = {variants[v]: value(row, "top1_pct") - value(found[v], "top1_pct") for v, row in tuned.items()}
    return drops, gains


def _only_pruning_explains(rows: Rows, dataset: str) -> Judgement:
    drops, gains = wrong_normalization(rows, dataset)
    claimed = reported_top1(dataset, MAGNITUDE) - reported_top1(dataset, "dense")
    lost = ", ".join(f"{WRONG[n]} {signed(-drop)}" for n, drop in drops.items())
    evidence = f"Unpruned, with a wrong normalisation: {lost} points"
    if gains:
        regained = ", ".join(f"{WRONG[n]} {signed(gain)}" for n, gain in gains.items())
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
    control = rows.control(dataset, rows.seeds(dataset, GRASP))
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


CLAIMS = (
    Claim(
        "magnitude_boost",
        ACCURACY,
        "Magnitude pruning regularises, and so brings the large boost in accuracy",
        "Pruned against the unpruned network with the same fine-tuning: less than half the claimed gain refutes, more supports",
        magnitude_boost,
    ),
    Claim(
        "only_pruning_explains",
        ACCURACY,
        "Only pruning explains the jump from the baseline",
        "The unpruned network under a wrong normalisation: half the jump lost, and gained by fine-tuning alone, refutes",
        _only_pruning_explains,
        asked_here=True,
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
)
