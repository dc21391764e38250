"""The first page is computed from whatever results there are."""

import math

import pandas as pd
import pytest
import synthetic
import words
from bs4 import BeautifulSoup

from helpers.report import evidence, index, look


def first_page(frame: pd.DataFrame) -> BeautifulSoup:
    return BeautifulSoup(f"<main>{index.body(frame, 'demo', [])}</main>", "html.parser")


def answers(changes: dict) -> list[str]:
    return [" ".join(item.get_text().split()) for item in first_page(synthetic.frame(changes)).select(".answer li")]


PRUNED = ("layerwise_magnitude", "")


def test_the_answer_follows_the_results():
    size, speed, cost = answers({})
    assert size.startswith("Yes for size:") and f"{58.25 / (1.82 + 58.25 * 0.1967):.1f} times smaller" in size
    assert speed.startswith("Partly for speed:") and f"{1 / (2 * 0.1967):.1f} times as fast" in speed
    assert "0.1 points" in cost  # 92.7 against 92.6
    slow = {"sparse_latency_batch128_ms": None, "latency_batch128_ms": 1200.0}
    worse = answers({PRUNED: {"size_mib": 60.0, "top1_pct": 90.0, **slow}})
    assert [text.partition(":")[0] for text in worse] == ["No for size", "No for speed", "The cost"]
    assert "2.7 points" in worse[2]  # CIFAR-10's, which is the larger loss


def test_a_loss_inside_the_noise_of_seeds_is_none():
    lost = []
    for spread in (0.01, 2.0):  # points between two trainings of either network
        frame = synthetic.frame({PRUNED: {"top1_pct": 92.3}, ("dense_finetuned", ""): {"top1_pct": 92.7}})
        again = synthetic.frame({PRUNED: {"top1_pct": 92.3 - spread}, ("dense_finetuned", ""): {"top1_pct": 92.7 - spread}})
        whole = pd.concat([frame, again.assign(seed=1)], ignore_index=True)
        lost.append(index.answer(whole, evidence.networks(whole))["lost"])
    assert lost == [pytest.approx(0.4), 0.0]


def test_a_file_without_training_is_told_where_every_data_set_has_a_sure_one():
    assert math.isnan(index.untrained(synthetic.frame()))  # nothing was repaired there
    repaired = {"method": "repaired", "epochs": 0, "size_int8_mib": 1.0, "int8_top1_pct": 92.6}
    whole = pd.concat([synthetic.frame(), synthetic.frame().assign(seed=1)], ignore_index=True)  # no noise of seeds
    made = whole[(whole.method == PRUNED[0]) & (whole.label == "") & (whole.seed == 0)].assign(**repaired)
    made["int8_top1_pct"] = made.top1_pct
    frame = pd.concat([whole, made], ignore_index=True)
    sizes = frame[frame.method == "dense"].groupby("dataset").size_mib.first()
    assert index.untrained(frame) == pytest.approx(sizes.min())
    words_of_size = " ".join(first_page(frame).select_one(".answer li").get_text().split())
    assert words_of_size.endswith(f"in int8, with nothing trained, {sizes.min():.0f} times.")


def test_quantising_is_told_beside_pruning():
    lines = [
        ("dense", "", "PyTorch fp32", 400.0, 92.4),
        ("dense", "", "fast int8", 50.0, 90.0),  # loses more than a point: no choice
        ("dense", "", "sound int8", 100.0, 92.3),
        ("repaired", "blocks", "zeros skipped int8", 40.0, 91.9),
        ("layerwise_magnitude", "", "zeros skipped fp32", 200.0, float("nan")),
    ]
    timed = pd.DataFrame(lines, columns=["method", "label", "software", "time_batch128_ms", "top1_pct"])
    assert index.instead(timed) == {"zeros": 2.0, "quantised": 4.0, "both": 10.0}
    assert index.instead(timed.iloc[1:]) == {} and index.instead(timed.iloc[:3]) == {"quantised": 4.0}


@pytest.mark.parametrize(
    "frame",
    [
        synthetic.frame().head(0),
        synthetic.frame(without=tuple(set(synthetic.frame()["method"]) - {"dense"})),
        synthetic.frame(without=("dense_finetuned", "dense_from_scratch")),
        synthetic.frame(folded=False).assign(latency_batch128_ms=float("nan"), sparse_latency_batch128_ms=float("nan")),
        synthetic.frame().query("dataset == 'cifar10'").assign(dataset="digits"),
    ],
    ids=["nothing", "dense alone", "no controls", "nothing timed", "one data set"],
)
def test_a_part_of_the_results_makes_a_page(frame):
    page = first_page(frame)
    assert page.h1 and not words.problems(str(page))
    assert "nan" not in page.get_text().lower().split()


def test_a_handful_of_networks_stands_in_the_short_table():
    made = evidence.networks(synthetic.frame())
    made["stop"] = [evidence.called(line) for _, line in made.iterrows()]
    shown = index.short_table(made).data
    assert list(shown.index) == [look.name(method) for method in index.LINES if method in set(made.method)]
    assert shown.loc["fine-tuned dense", ("cifar100", "time_batch128_ms")] == 1000


def test_the_figure_holds_what_was_pruned_after_training_beside_dense_trained_as_long():
    networks = evidence.networks(synthetic.frame())
    made = index.gains(networks)
    assert {look.network(method).start for method in made.method} == {look.FINETUNED}
    assert {"layerwise_magnitude", "lasso_channels"} <= set(made.method) and not made.method.str.startswith("dense").any()
    line = made[made.method == "lasso_channels"].iloc[-1]
    main = networks[(networks.dataset == line.dataset) & (networks.label == "")].set_index("method")
    assert line.points == line.top1_pct - main.top1_pct["dense_finetuned"]
    assert line.faster == main.time_batch128_ms["dense"] / main.time_batch128_ms["lasso_channels"]


def test_marks_of_the_explorer_stand_inside_its_drawings():
    made = evidence.networks(synthetic.frame())
    made["stop"] = [evidence.called(line) for _, line in made.iterrows()]
    parts = index.explorer(made)
    assert [part["start"] for part in parts] == ["fine-tuned", "from nothing"]
    for part in parts:
        places = {d["dataset"]: [s["values"][d["dataset"]]["at"] for s in part["stops"]] for d in part["drawings"]}
        assert all(0 < x < index.WIDTH and 0 < y < index.HEIGHT for at in places.values() for x, y in at)
        assert len({stop["name"] for stop in part["stops"]}) == len(part["stops"])
