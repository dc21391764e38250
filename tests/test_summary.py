"""The tables in Markdown are what the build would write."""

import pytest
import synthetic

from helpers import results, settings, statistics, timing
from helpers.report import claims, evidence, summary


@pytest.fixture(scope="module")
def written() -> dict:
    return summary.texts(timing.of_one_run(results.frame(settings.profile("study"))))


def test_the_committed_tables_are_what_the_build_writes(written):
    assert {path.relative_to(settings.ROOT).as_posix() for path in written} == {"README.md", "results/README.md"}
    assert [str(path) for path, text in written.items() if path.read_text() != text] == []


def test_only_what_stands_between_the_markers_is_replaced():
    before = (settings.ROOT / "README.md").read_text()
    after = summary.texts(synthetic.frame())[settings.ROOT / "README.md"]
    assert after != before
    for mark in ("<!-- results -->", "<!-- end of results -->"):
        assert after.count(mark) == 1
    assert after.partition("<!-- results -->")[0] == before.partition("<!-- results -->")[0]
    assert after.partition("<!-- end of")[2] == before.partition("<!-- end of")[2]


def test_every_network_has_a_line_and_gaps_a_dash():
    untimed = synthetic.frame(folded=False).assign(sparse_latency_batch128_ms=float("nan"), latency_batch128_ms=float("nan"))
    networks = evidence.networks(untimed)
    lines = summary.long_table(networks).splitlines()
    assert len(lines) == len(networks) + 2 and {line.count(" | ") for line in lines} == {8}
    dense = next(line for line in lines if line.startswith("| CIFAR-10 | dense |"))
    assert dense.split(" | ")[2:] == ["1", "0.00", "58.25", "313.7", "–", "0", "92.40 |"]


def test_every_network_of_the_study_has_a_name_of_its_own():
    for profile in ("study", "quarter"):
        made = evidence.networks(results.frame(settings.PROFILES[profile]))
        names = [(line["dataset"], evidence.called(line)) for _, line in made.iterrows()]
        assert names and len(set(names)) == len(names)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_an_epoch_after_repair_gains_what_notebook_01_says(dataset):
    frame = results.frame(settings.PROFILES["study"])
    here = frame[(frame.dataset == dataset) & (frame.method == "repaired") & (frame.target_sparsity_pct == 95)]
    untrained = here[here.label == "curve"]
    tuned, of_magnitude = (
        statistics.compare(here[here.label == label], untrained, frame) for label in ("finetuned", "magnitude_finetuned")
    )
    assert not tuned.decided  # "adds nothing"
    assert of_magnitude.decided and of_magnitude.difference < 0  # "stay behind, with that epoch too"


def test_methods_before_training_stand_as_notebook_02_says():
    quarter = results.frame(settings.PROFILES["quarter"])
    frame = quarter[quarter.dataset == "cifar10"]

    def compared(ours: tuple[str, str], theirs: tuple[str, str]) -> statistics.Comparison:
        sides = (frame[(frame.method == method) & (frame.label == label)] for method, label in (ours, theirs))
        return statistics.compare(*sides, frame)

    early = (claims.ABSOLUTE, *claims.UNTRAINED)
    for network in early:
        lost = compared(network, claims.NEW)
        assert lost.decided and lost.difference < 0 and min(lost.seeds) > 1
    top1 = {network: frame[(frame.method == network[0]) & (frame.label == network[1])].top1_pct.mean() for network in early}
    assert min(top1, key=top1.get) == claims.RANDOM  # "random masks lose most"
    better, same = compared(claims.SNIP, claims.GRASP), compared(claims.SNIP, claims.ABSOLUTE)
    assert better.decided and better.difference > 0 and not same.decided
    sign = compared(claims.ABSOLUTE, claims.GRASP)
    assert sign.decided and sign.difference > 0
    published = [claims.RANDOM, ("grasp", ""), claims.SNIP, ("synflow", "")]  # and magnitude before SynFlow, which is lower here
    assert sorted(published, key=top1.get) == published and top1["magnitude_init", ""] < top1[claims.SNIP]
