"""The tables in Markdown are what the build would write."""

import pytest
import synthetic

from helpers import results, settings, timing
from helpers.report import evidence, summary


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
