"""Pages of a study that is half done: with any row the pages lean on missing, they say so instead of failing."""

import pytest
from IPython.display import Markdown

from helpers import settings, study
from helpers.report import (
    analysis,
    channels,
    claims,
    expected,
    frontier,
    initialization,
    magnitude,
    recipes,
    saliency,
    saliency_costs,
    savings,
    sensitivity,
    sparse_costs,
)
from helpers.report.plots import analysis as analysis_plots
from helpers.report.plots import channels as channel_plots
from helpers.report.plots import saliency as saliency_plots
from helpers.report.tables import Table

LEANT_ON = (
    "dense",
    "dense_finetuned",
    "dense_from_scratch",
    "grasp_iterative",
    "layerwise_magnitude",
    "lasso_channels",
    "random",
)
OF_ALL = (
    *(magnitude.against_write_up, magnitude.against_seen, magnitude.control_seen, sparse_costs.sizes_seen),
    *(sparse_costs.speed_seen, sensitivity.compression_table, sensitivity.compression_seen, saliency.curves_seen),
    *(saliency.against_write_up, saliency.against_seen, saliency.control_seen, saliency.snip_answer, saliency.checks_seen),
    *(saliency_costs.costs_seen, saliency_costs.latencies, saliency_costs.latency_seen, channels.widths_seen),
    *(channels.errors_seen, channels.against_write_up, channels.against_seen, channels.ablations, channels.ablations_seen),
    *(savings.curve_table, savings.curve_seen, savings.savings_seen, frontier.front_seen, frontier.decisions_seen),
    *(initialization.ticket_seen, recipes.recipes, analysis.limits),
)
OF_ONE = (saliency.one_budget, expected.expected, frontier.decisions, initialization.initialization, initialization.ticket)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return study.rows(settings.profile("study"), compute_missing=False)


@pytest.mark.parametrize("lacking", LEANT_ON)
def test_every_table_and_sentence_bears_a_missing_method(rows, lacking):
    left = [row for row in rows if row["method"] != lacking]
    shown = [show(left) for show in OF_ALL] + [show(left, dataset) for show in OF_ONE for dataset in ("cifar10", "cifar100")]
    assert all(isinstance(item, Table | Markdown) for item in shown)
    judged = claims.judge(left)
    assert "not measured here" in {j.by_dataset[d].verdict for j in judged for d in j.by_dataset}
    assert len(claims.findings(left)) == 5


def test_figures_bear_a_missing_dense_network(rows):
    left = [row for row in rows if row["method"] not in ("dense", "dense_from_scratch")]
    drawn = [channel_plots.accuracy(left), channel_plots.savings(left), saliency_plots.accuracy_against_cost(left)]
    drawn += [saliency_plots.curves(left, "cifar10"), analysis_plots.front(left, "latency")]
    assert all(hasattr(item, "_repr_html_") or "Missing" in item.data for item in drawn)
