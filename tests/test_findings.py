"""What the notebooks say under *What we see* in fixed text, asked of the study's results."""

import pandas as pd
import pytest

from helpers import results, settings, statistics, timing
from helpers.report import claims
from helpers.report.plots import main_result

STUDY, QUARTER = (settings.PROFILES[name] for name in ("study", "quarter"))
CHECKS = ("shuffled", "reinitialized", "inverted")
BOTH = pytest.mark.parametrize("dataset", STUDY.datasets)


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return timing.of_one_run(results.frame(STUDY))


@pytest.fixture(scope="module")
def quarter() -> pd.DataFrame:
    return results.frame(QUARTER)


def compared(frame: pd.DataFrame, dataset: str, ours: tuple[str, str], theirs: tuple[str, str]) -> statistics.Comparison:
    here = frame[frame.dataset == dataset]
    sides = [here[(here.method == method) & (here.label == label)] for method, label in (ours, theirs)]
    assert all(map(len, sides)), (ours, theirs)
    return statistics.compare(*sides, frame)


# 01 ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_pruning_makes_no_network_better_than_training_on(study, dataset):
    for method in ("layerwise_magnitude", "global_magnitude", "uniform_magnitude"):
        found = compared(study, dataset, (method, ""), claims.FINETUNED)
        assert not (found.decided and found.difference > 0)


@BOTH
def test_which_layers_give_matters_before_finetuning_alone(study, dataset):
    networks = [(f"{allocation}_magnitude", "") for allocation in ("layerwise", "global", "uniform")]
    before = [main_result(study, method, dataset).pruned_top1_pct for method, _ in networks]
    assert max(before) > 1.5 * min(before)
    assert not any(compared(study, dataset, network, networks[0]).decided for network in networks[1:])


@BOTH
def test_at_a_fifth_of_the_weights_repair_mends_the_fall(study, dataset):
    repaired, dense = (main_result(study, method, dataset).top1_pct for method in ("repaired", "dense"))
    fallen = main_result(study, "layerwise_magnitude", dataset).pruned_top1_pct
    assert fallen < dense - 50 and repaired > dense - 0.5


@BOTH
def test_an_epoch_after_repair_adds_nothing_and_magnitude_masks_stay_behind(study, dataset):
    here = study[(study.dataset == dataset) & (study.method == "repaired") & (study.target_sparsity_pct == 95)]
    untrained, tuned, of_magnitude = (here[here.label == label] for label in ("curve", "finetuned", "magnitude_finetuned"))
    assert not statistics.compare(tuned, untrained, study).decided
    behind = statistics.compare(of_magnitude, untrained, study)
    assert behind.decided and behind.difference < 0


@BOTH
def test_zeros_pay_on_disk_and_in_time_only_where_they_are_skipped(study, dataset):
    pruned, dense = (main_result(study, method, dataset) for method in ("layerwise_magnitude", "dense"))
    assert 4 < dense.size_dense_mib / pruned.size_bitmask_mib < 5
    assert pruned.latency_batch128_ms / dense.latency_batch128_ms > 0.9
    assert pruned.sparse_latency_batch128_ms / dense.latency_batch128_ms < 0.5


# 02 ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_methods_before_training_stand_as_said(quarter, dataset):
    early = (claims.ABSOLUTE, *claims.UNTRAINED)
    against_dense = {network: compared(quarter, dataset, network, claims.NEW) for network in early}
    assert min(min(found.seeds) for found in against_dense.values()) > 1
    below = {network for network, found in against_dense.items() if found.decided and found.difference < 0}
    surely = {"cifar10": set(early), "cifar100": {claims.GRASP, ("grasp", ""), claims.RANDOM}}
    assert below == surely[dataset] and not any(found.decided for network, found in against_dense.items() if network not in below)
    better, same = (compared(quarter, dataset, claims.SNIP, grasp) for grasp in (claims.GRASP, claims.ABSOLUTE))
    assert better.difference > 0 and better.decided and not same.decided
    one_shot = compared(quarter, dataset, claims.SNIP, ("grasp", ""))
    assert one_shot.decided and one_shot.difference > 0
    sign = compared(quarter, dataset, claims.ABSOLUTE, claims.GRASP)
    assert sign.decided and sign.difference > 0
    means = quarter[quarter.dataset == dataset].groupby(["method", "label"]).top1_pct.mean()
    published = [claims.RANDOM, ("grasp", ""), claims.SNIP, ("synflow", "")]  # and magnitude between the last two
    assert sorted(published, key=means.get) == published and min(early, key=means.get) == claims.RANDOM
    assert not means[claims.SNIP] < means["magnitude_init", ""] < means["synflow", ""]  # "another place for magnitude"


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_which_weights_a_layer_keeps_makes_no_difference(quarter, method):
    checks = {label: compared(quarter, "cifar10", (method, label), (method, "")) for label in CHECKS}
    for label in ("shuffled", "reinitialized"):
        assert not (checks[label].decided and checks[label].difference < 0)
    assert checks["inverted"].decided == (method == "snip")  # GraSP's two ends are equally good
    inverted = quarter[(quarter.method == method) & (quarter.label == "inverted")].top1_pct.item()
    assert (inverted < 10.5) == (method == "snip")  # chance among ten classes


@BOTH
def test_a_trained_mask_is_better_than_all_others_on_its_own_first_weights_alone(quarter, dataset):
    for other in (claims.NEW, claims.REINITIALIZED, claims.ABSOLUTE, *claims.UNTRAINED):
        found = compared(quarter, dataset, claims.REWOUND, other)
        assert found.decided and found.difference > 0
    for other in (claims.NEW, claims.SNIP, ("synflow", "")):
        found = compared(quarter, dataset, claims.REINITIALIZED, other)
        assert not (found.decided and found.difference > 0)


# 03 ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_fewer_channels_shrink_file_memory_and_time(study, dataset):
    small, dense = (main_result(study, method, dataset) for method in ("lasso_channels", "dense"))
    for column in ("size_mib", "peak_memory_mib", "latency_ms", "latency_batch128_ms"):
        assert small[column] < dense[column] / 2


def test_least_squares_matters_before_finetuning_and_hardly_after_it(study):
    here = study[(study.dataset == "cifar10") & (study.method == "lasso_channels")].set_index(["label", "seed"])
    start = here.pruned_top1_pct
    assert start["", 0] > start["no_reconstruction", 0] + 50
    others = [start[label, 0] for label in ("symmetric", "widths=uniform", "widths=he")]
    assert min(others) > start["no_reconstruction", 0] + 50  # nothing else does as much
    after = compared(study, "cifar10", claims.LASSO, ("lasso_channels", "no_reconstruction"))
    assert after.decided and 0 < after.difference < 1


@BOTH
def test_once_solved_the_choice_of_channels_matters_less(study, dataset):
    solved = {choice: start_of(study, dataset, choice, "solved") for choice in ("l1_filters", "random_channels")}
    cut = {choice: start_of(study, dataset, choice, "") for choice in solved}
    lasso = start_of(study, dataset, "lasso_channels", "")
    assert all(abs(lasso - solved[choice]) < abs(lasso - cut[choice]) / 4 for choice in solved)
    assert not compared(study, dataset, ("l1_filters", ""), claims.LASSO).decided
    assert compared(study, dataset, ("random_channels", ""), claims.LASSO).difference < 0


@BOTH
def test_twice_as_much_finetuning_surely_helps_on_cifar100_alone(study, dataset):
    found = compared(study, dataset, ("lasso_channels", "longer"), claims.LASSO)
    assert found.difference > 0 and found.decided == (dataset == "cifar100")


def test_widths_lose_more_than_any_choice_within_a_layer(study):
    others = [("lasso_channels", "widths=he"), ("random_channels", ""), ("l1_filters", "")]
    widths, *choices = (compared(study, "cifar10", other, claims.LASSO) for other in others)
    assert widths.decided and widths.difference < min(choice.difference for choice in choices)


def start_of(frame: pd.DataFrame, dataset: str, method: str, label: str) -> float:
    chosen = frame[(frame.dataset == dataset) & (frame.method == method) & (frame.label == label) & (frame.seed == 0)]
    return chosen.pruned_top1_pct.item()


# 04 ------------------------------------------------------------------------------------------------------------------


@BOTH
def test_at_95_percent_the_file_is_twelve_times_smaller(study, dataset):
    of_size = study[(study.dataset == dataset) & (study.target_sparsity_pct == 95) & (study.method == "repaired")]
    assert (of_size.size_dense_mib / of_size.size_bitmask_mib).round().eq(12).all() and len(of_size)


@pytest.mark.parametrize("run", results.contenders(STUDY, "cifar10"), ids=lambda run: run.attrs["device"])
def test_for_one_image_zeros_gain_nothing_in_float32(run):
    times = run[run.software.str.contains("fp32")].set_index(["method", "software"]).time_ms
    assert times["layerwise_magnitude", "zeros skipped fp32"] > 0.95 * times.loc["dense"].min()


@pytest.mark.parametrize("matrix", [False, True], ids=["vectors", "matrix units"])
def test_fewer_channels_help_in_every_engine_and_int8_beats_zeros_until_both_go_together(matrix):
    [timed] = (run for run in results.contenders(STUDY, "cifar10") if ("AMX" in run.attrs["device"]) == matrix)
    times = timed.pivot_table("time_batch128_ms", "software", "method", aggfunc="min")
    dense_top1 = timed[timed.method == "dense"].set_index("software").top1_pct["PyTorch fp32"]
    engines = times.dropna(subset=["dense", "lasso_channels"])
    assert len(engines) > 4 and (engines.lasso_channels < engines.dense / 4).all()
    zeros_alone, together = (
        times.drop(columns=["dense", "lasso_channels"]).loc[f"zeros skipped {kind}"] for kind in ("fp32", "int8")
    )
    int8 = times.dense[times.index.str.contains("int8")]
    assert int8.min() < zeros_alone.min() and int8.min() == times.dense.min()
    ratio = together.min() / int8.min()
    half = timed[timed.label == "macs=2x"].set_index("software")
    for engine in ("ONNX Runtime int8", "OpenVINO int8") if matrix else ():
        assert half.time_batch128_ms[engine] < times.dense[engine] / 2 and half.top1_pct[engine] > dense_top1 - 1
    assert ratio > 0.9 if matrix else ratio < 0.5  # with matrix units zeros gain nothing that int8 has not


@BOTH
def test_repair_at_a_fifth_of_the_weights_costs_no_more_than_a_point(study, dataset):
    found = compared(study, dataset, claims.REPAIRED, claims.DENSE)
    assert found.total.low > -1


@BOTH
def test_before_training_nothing_beats_dense_from_nothing(study, quarter, dataset):
    frame = claims.with_early(study, quarter)
    for network in (claims.ABSOLUTE, *claims.UNTRAINED):
        found = compared(frame, dataset, network, claims.NEW)
        assert not (found.decided and found.difference > 0)
