"""The page "on this machine": the study's zeros and widths without its weights, and a line for all that runs here."""

import pytest
import torch
from bs4 import BeautifulSoup

from helpers import engines, models, plan, results, settings, storage
from helpers.pruning import masks
from helpers.report import here

STUDY = settings.PROFILES["study"]
RESULTS = {e.method: e for e in reversed(plan.experiments(STUDY)) if e.dataset == "cifar10" and e.label == "" and e.seed == 0}


class Instant(engines.Engine):
    """An engine in this process whose calls take as many milliseconds as the network has millions of weights left."""

    def __init__(self, name: str, network: models.VGG, calibration: torch.Tensor):
        if name.startswith("OpenVINO"):
            raise engines.Unavailable("openvino is <not> installed")
        self.millions = masks.Masks.from_zeros(network).kept / 1e6

    def close(self) -> None:
        pass

    def times(self, images: torch.Tensor, seconds: float) -> list[float]:
        return [len(images) * self.millions]


@pytest.fixture
def instant(monkeypatch, no_decisions):
    monkeypatch.setattr(engines, "Engine", Instant)
    monkeypatch.setattr(engines.machine, "processor_flags", lambda: frozenset({"avx2"}))


@pytest.mark.parametrize("method", ["layerwise_magnitude", "uniform_magnitude"])
def test_as_many_zeros_in_each_layer_as_the_result_has(method):
    result = results.load(RESULTS[method])
    network = here.network(RESULTS[method], result)
    found = {layer.name: layer.kept for layer in masks.Masks.from_zeros(network).table()}
    assert found == {f"{layer['name']}.weight": layer["kept"] for layer in result["layers"]}
    assert not network.training


def test_as_many_channels_as_the_result_has():
    result = results.load(RESULTS["lasso_channels"])
    assert models.macs(here.network(RESULTS["lasso_channels"], result)) == result["effective_macs"]


def test_a_kept_network_is_taken_as_it_is(own_folders):
    kept = models.VGG(10, (4, "M", 4, "M"), (4,))
    storage.save(kept, settings.kept_path("study", "cifar10", "lasso_channels"), "bitmask")
    assert torch.equal(here.network(RESULTS["lasso_channels"], {}).features[0].weight, kept.features[0].weight)


def test_every_engine_has_its_line_or_its_reason(instant):
    frame, missing = here.timed(0.1)
    assert ("dense", "PyTorch fp32") in frame.index and ("LASSO channels", "PyTorch fp32") in frame.index
    assert not [software for _, software in frame.index if software.startswith("OpenVINO")]
    assert len(missing) == len([name for name in engines.ENGINES if name.startswith("OpenVINO") and not engines.saturates(name)])
    stored = results.load(RESULTS["layerwise_magnitude"])
    line = frame.loc["layer-wise magnitude", "zeros skipped fp32"]
    kept = sum(layer["kept"] for layer in stored["layers"]) / 1e6
    assert line[here.HERE, "time_ms"] == pytest.approx(kept)
    assert line[here.HERE, "time_batch128_ms"] == pytest.approx(128 * kept)
    assert line[here.THERE, "time_batch128_ms"] == stored["sparse_latency_batch128_ms"]


def test_the_page_holds_the_times_and_the_reasons(instant, own_folders, monkeypatch, capsys):
    monkeypatch.delenv("RESULTS_DIR")
    assert here.main(["--seconds", "0.1"]) == 0
    path = settings.report_dir("study") / "here.html"
    soup = BeautifulSoup(path.read_text(), "html.parser")
    assert soup.h1.get_text() == "On this machine" and str(path) in capsys.readouterr().out
    heads = {head.get_text(strip=True) for head in soup.select("tbody th")}
    assert {"PyTorch fp32", "zeros skipped fp32"} <= heads
    assert "openvino is <not> installed" in soup.get_text()
    links = [link["href"] for link in soup.select("footer a") if link.get_text() == "Code of this page"]
    assert len(links) == 1 and links[0].endswith("helpers/report/here.py")


def test_without_results_there_is_one_line(own_folders):
    with pytest.raises(ValueError, match="no results of cifar10"):
        here.timed(0.1)
