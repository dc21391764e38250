from IPython.display import Markdown
from synthetic import correct_bits, made

from helpers import plan, settings
from helpers.report import analysis, evidence, expected, frontier, initialization, magnitude, readme, recipes
from helpers.report.plots import analysis as plots
from helpers.report.plots.overview import overview
from helpers.report.style import Figure


def overlaps(*methods):
    table = {a: {b: {"jaccard": 1.0 if a == b else 0.31, "by_chance": 0.15} for b in methods} for a in methods}
    return {"cifar10": table}


def point(cost, top1):
    return cost, {"top1_pct": top1}


def test_the_front_holds_exactly_what_no_other_point_beats():
    points = [point(1, 80), point(2, 79), point(3, 90), point(3, 85), point(4, 90), point(5, 95), point(9, 94)]
    front = frontier.pareto(points)
    assert [(cost, row["top1_pct"]) for cost, row in front] == [(1, 80), (3, 90), (5, 95)]
    for cost, row in points:  # every point is on the front, or a front point is no worse in both
        assert any(c <= cost and r["top1_pct"] >= row["top1_pct"] for c, r in front)
    assert frontier.pareto([]) == []


def test_the_grand_table_has_a_line_for_every_method_and_the_write_up_beside_it():
    accuracy, size, time = (table._repr_html_() for table in analysis.grand(made(), "cifar10"))
    assert all(part.count('scope="row"') == 16 and "SynFlow" in part and "no row yet" in part for part in (accuracy, size, time))
    assert "82.92" in accuracy and "34.33" in size and "457.4" in time  # the write-up's baseline, file and memory
    empty = analysis.grand([], "cifar100")[0]._repr_html_()
    assert "63.57" in empty and "no row yet" in empty


def test_a_method_of_two_seeds_has_one_accuracy_wherever_it_is_shown():
    rows = made({("layerwise_magnitude", ""): {"pruned_top1_pct": 30.0}})
    first = evidence.Rows(rows).one("cifar10", "layerwise_magnitude")
    again = first | {"seed": 1, "top1_pct": first["top1_pct"] + 0.5, "latency_ms": None, "sparse_latency_batch128_ms": None}
    rows.insert(0, again | {"correct": correct_bits(again["top1_pct"], 99)})
    whole = [row | {"sparsity_pct": row["sparsity_pct"] or 0.0} for row in rows]
    line = next(line for line in readme.table(whole).splitlines() if line.startswith("| CIFAR-10 | layer-wise"))
    assert "| 4 | 2 | **92.85** |" in line and "2.54" in line  # (92.6 + 93.1) / 2, and the time of the seed that was timed
    assert "92.85" in analysis.grand(rows, "cifar10")[0].html
    table = magnitude.against_write_up(rows).html
    assert "92.85" in table and "means over seeds for layer-wise magnitude on CIFAR-10 (2)" in table
    seen = magnitude.against_seen(rows).data
    assert "92.85 % after 4 epochs of fine-tuning, the mean of 2 seeds" in seen and "of +0.15 points" in seen
    assert "+0.15 (" in frontier.decisions(rows, "cifar10").html  # against 92.7
    assert "correct" not in evidence.Rows(rows).shown("cifar10", "layerwise_magnitude")  # no network got the mean right


def test_expected_is_arithmetic_and_observed_is_a_ratio_to_the_own_dense_network():
    rows = made({("layerwise_magnitude", ""): {"density_pct": 19.67, "size_mib": 13.28}})
    html = expected.expected(rows, "cifar10")._repr_html_()
    assert "0.228" in html  # 0.1967 + 1/32, and 13.28 / 58.25
    assert "0.589" in html and "0.259" in html  # the write-up's 34.331 / 58.251 and 118.364 / 457.388
    assert "0.256" in html  # 40 / 156
    assert isinstance(expected.expected([], "cifar10"), Markdown)


def test_memory_is_expected_from_weights_images_and_the_largest_layer_s_maps():
    row = {"params": 10, "settings": {"width_divisor": 1}, "widths": (8, "M", 16)}
    # the first convolution reads 3 and writes 8 channels of 32 × 32, the second 8 and 16 of 16 × 16
    assert expected._memory(row) == 4 * (10 + 128 * (3 * 1024 + (3 + 2 * 8) * 1024))
    # the second layer's maps are the larger ones: 64 channels read, 64 written and normalised
    assert expected._memory(row | {"widths": (64, 64, "M")}) == 4 * (10 + 128 * (3 * 1024 + 3 * 64 * 1024))


def test_recipes_are_read_from_the_rows():
    recipe = {"epochs": 4, "batch_size": 256, "peak_lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "warmup": 0.2}
    trained = {"settings": {"recipe": recipe, "dropout": 0.2}, "log": [{"seconds": s} for s in (60, 90, 600)]}
    longer = trained | {"settings": {"recipe": recipe | {"epochs": 8}, "dropout": 0.2}, "weights": "initialised, seed 0"}
    html = recipes.recipes(made({("dense_finetuned", ""): trained, ("l1_filters", ""): trained, ("random", ""): longer})).html
    assert "dense, fine-tuned, L1 filters" in html and "1.5" in html and "the trained dense network" in html
    assert html.count("<tr") == 3 and "weight decay on weights 0.0005" in html  # the heads, and a line a recipe
    assert "Missing" in recipes.recipes(made()).data


def test_missing_rows_are_named():
    profile = settings.profile("demo")
    planned = plan.plan(profile)[:3]
    there = [{"dataset": p.key.dataset, "method": p.key.method, "target_sparsity_pct": p.key.sparsity_pct} for p in planned]
    there = [r | {"seed": p.key.seed, "variant": p.key.variant} for r, p in zip(there, planned, strict=True)]
    assert analysis.missing_rows(there, planned).data == "All 3 planned rows are there."
    partly = analysis.missing_rows(there[:1], planned).data
    assert partly.startswith("1 of 3 planned rows") and "digits: dense (2)" in partly


def test_decisions_take_the_cheapest_network_that_does_the_job():
    html = frontier.decisions(made(), "cifar10")._repr_html_()
    first = html[html.index("a smaller file") : html.index("higher throughput")]
    # 13.28 MiB surely within a point; 8.23 MiB only just not (−0.40, down to −1.01); 8.00 MiB at a loss of 1.4 points
    assert all(text in first for text in ("layer-wise magnitude", "4.39", "LASSO channels", "7.28")) and "sparse" not in first
    assert "L1 filters" not in first  # as small and less accurate
    longer = frontier.decisions(made({("lasso_channels", ""): {"epochs": 8}}), "cifar10")._repr_html_()
    assert "LASSO" not in longer and "L1 filters" in longer  # more training than the control had is no gain of pruning
    worse = frontier.decisions([r for r in made() if r["method"] in ("dense", "dense_finetuned", "random")], "cifar10")
    assert worse._repr_html_().count("the dense network<") == 2 * len(frontier.NEEDS)
    assert isinstance(frontier.decisions([], "cifar10"), Markdown)


def test_a_cost_that_was_not_measured_leaves_the_network_out():
    rows = made({("lasso_channels", ""): {"latency_batch128_ms": None}})
    known = evidence.Rows(rows)
    methods = {row["method"] for _, row in frontier.points(known, frontier.candidates(known, "cifar10"), "latency")}
    assert "lasso_channels" not in methods and "l1_filters" in methods


def test_initialization_compares_accuracy_work_and_choice_of_weights():
    rows = made()
    html = initialization.initialization(rows, "cifar10")._repr_html_()
    assert "−6.00 points" in html and "pruned in stages" in html and "no row yet" in html
    seen = initialization.initialization_seen(rows, overlaps("snip", "grasp")).data
    assert "SNIP against GraSP, one shot +1.90 points" in seen and "31.0 %" in seen and "15.0 %" in seen
    ticket = initialization.ticket(rows, "cifar10")._repr_html_()
    assert "91.40" in ticket and "86.40" in ticket
    assert "+3.00 points" in initialization.ticket_seen(rows).data


def test_limits_name_seeds_budgets_and_devices():
    rows = made()
    again = [r | {"seed": 1} for r in rows if r["method"] == "snip"]
    text = analysis.limits([*rows, *again]).data
    assert "more than one seed: SNIP." in text and "SNIP 4" in text and "a processor" in text
    assert "none" in analysis.limits([]).data


def test_figures_say_what_they_show():
    rows = made()
    figures = [plots.front(rows, "latency")]
    figures += [plots.density_profiles(rows), plots.shared_weights(overlaps("snip", "grasp", "random"))]
    figures += [plots.gradients(rows, ("snip", "grasp", "random"))]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert "layer-wise magnitude" in figures[0].alt and "31.0 %" in figures[-2].alt
    names = [figure.name for figure in figures]
    assert len(set(names)) == len(names) and all(settings.figure_path("demo", n).is_file() for n in names)


def test_two_methods_tell_nothing_of_gradients_and_accuracy():
    assert "Missing: gradient norm" in plots.gradients(made(without=("grasp",)), ("snip", "grasp", "random")).data


def test_the_first_page_s_figure_belongs_to_the_profile_that_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setenv("BUILD_DIR", str(tmp_path / "build"))
    for built, other in (("demo", "study"), ("study", "demo")):
        monkeypatch.setenv("PROFILE", other)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
        assert isinstance(overview(made(), built), Figure)
        new = [path for path in tmp_path.rglob("*.png") if path not in before]
        assert new == [settings.figure_path(built, "index_overview")]
        assert all(path.read_bytes() == png for path, png in before.items())


def test_without_rows_a_page_still_says_what_is_missing():
    shown = [plots.front([], "bytes"), plots.density_profiles([]), plots.shared_weights({}), plots.gradients([], ("snip",))]
    assert all("Missing: " in item.data for item in shown)
    assert "Missing: masks found after training" in initialization.ticket([], "cifar10").data
    partly = [r for r in made(without=("random",)) if r["variant"] != "rewound"]
    ticket = initialization.ticket(partly, "cifar10")._repr_html_()
    assert "no row of random" in ticket and "whose initial weights are known" in ticket
    for item in (frontier.front_seen([]), frontier.decisions_seen([]), initialization.initialization_seen([], {})):
        assert isinstance(item, Markdown)
    one = [r for r in made() if r["dataset"] == "cifar10" and r["method"] == "dense"]
    assert "not all is measured" in frontier.decisions_seen(one).data
    assert isinstance(plots.front(one, "bytes"), Figure)


def test_more_images_see_an_accuracy_more_sharply():
    html = analysis.resolution()._repr_html_()
    assert "89.40" in html and "90.57" in html  # Wilson for 9,000 of 10,000
    assert "0.64" in html  # 1.96 · √2 · 0.19 · √(0.9 · 0.1 / (0.935 · 0.065))
