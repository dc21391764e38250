"""Contenders: the study's zeros and widths without its weights, a line for all that runs, and the page of a reader's machine."""

import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from helpers import contenders, engines, models, results, settings, storage
from helpers.pruning import masks
from helpers.report import here, tables


class Instant(engines.Engine):
    """An engine in this process whose calls take as many milliseconds as the network has millions of weights left."""

    def __init__(self, name: str, network: models.VGG, calibration: torch.Tensor):
        if name.startswith("OpenVINO"):
            raise engines.Unavailable("openvino is <not> installed")
        self.millions, self.size_mib = masks.Masks.from_zeros(network).kept / 1e6, None

    def close(self) -> None:
        pass

    def times(self, images: torch.Tensor, seconds: float) -> list[float]:
        return [len(images) * self.millions]


@pytest.fixture
def instant(monkeypatch, no_decisions):
    monkeypatch.setattr(engines, "Engine", Instant)
    monkeypatch.setattr(engines.machine, "processor_flags", lambda: frozenset({"avx2"}))


def networks() -> dict[tuple[str, str], contenders.Contender]:
    return {(c.experiment.method, c.experiment.label): c for c in contenders.contenders(trained=False)}


def test_as_many_zeros_and_channels_as_the_results_have():
    found = networks()
    masked = found["layerwise_magnitude", ""]
    kept = {layer.name: layer.kept for layer in masks.Masks.from_zeros(masked.network).table()}
    result = results.load(masked.experiment)
    assert kept == {f"{layer['name']}.weight": layer["kept"] for layer in result["layers"]}
    assert not masked.network.training and not masked.real
    small = found["lasso_channels", ""]
    assert models.macs(small.network) == results.load(small.experiment)["effective_macs"]


def test_a_kept_network_is_taken_as_it_is(own_folders, monkeypatch):
    monkeypatch.setattr(results, "load", lambda experiment: {})
    kept = models.VGG(10, (4, "M", 4, "M"), (4,))
    storage.save(kept, settings.kept_path("study", "cifar10", "lasso_channels"), "bitmask")
    small = networks()["lasso_channels", ""]
    assert small.real and torch.equal(small.network.features[0].weight, kept.features[0].weight)


def test_every_engine_has_its_line_or_its_reason(instant):
    frame, missing = contenders.measure(0.1)
    lines = frame.set_index(["method", "label", "software"])
    assert ("dense", "", "PyTorch fp32") in lines.index and ("lasso_channels", "", "PyTorch fp32") in lines.index
    assert not frame.software.str.startswith("OpenVINO").any() and "ONNX Runtime int8" not in set(frame.software)
    assert len(missing) == len([name for name in engines.ENGINES if name.startswith("OpenVINO") and not engines.saturates(name)])
    kept = masks.Masks.from_zeros(networks()["layerwise_magnitude", ""].network).kept / 1e6
    line = lines.loc["layerwise_magnitude", "", contenders.FLOAT]
    assert line.time_ms == pytest.approx(kept) and line.time_batch128_ms == pytest.approx(128 * kept)


def test_the_page_holds_the_times_here_and_in_the_study_and_the_reasons(instant, own_folders, monkeypatch, capsys):
    monkeypatch.delenv("RESULTS_DIR")
    assert here.main(["--seconds", "0.1"]) == 0
    path = settings.report_dir("study") / "here.html"
    soup = BeautifulSoup(path.read_text(), "html.parser")
    assert soup.h1.get_text() == "On this machine" and str(path) in capsys.readouterr().out
    heads = {head.get_text(strip=True) for head in soup.select("tbody th")}
    assert {"PyTorch fp32", contenders.FLOAT} <= heads
    assert "openvino is <not> installed" in soup.get_text()
    links = [link["href"] for link in soup.select("footer a") if link.get_text() == "Code of this page"]
    assert len(links) == 1 and links[0].endswith("helpers/report/here.py")


def test_two_machines_stand_side_by_side(own_folders, monkeypatch):
    line = {"method": "dense", "label": "", "software": "PyTorch fp32", "time_ms": 2.0, "time_batch128_ms": 50.0}
    for device, ms in (("old", 7.0), ("other", 3.0), ("old", 2.0)):  # measured again, in place of the older one
        monkeypatch.setattr(results.machine, "processor", lambda device=device: device)
        results.store_contenders("study", "cifar10", pd.DataFrame([line | {"time_ms": ms}]), ["why"])
    old, other = results.contenders("study", "cifar10")
    assert (old.attrs["device"], other.attrs["device"], old.attrs["missing"]) == ("old", "other", ["why"])
    assert old.top1_pct.isna().all() and old.time_ms.item() == 2.0
    both = here.beside(pd.concat([old.assign(time_ms=1.0), old.assign(software="OpenVINO fp32")]))
    assert both.loc["dense", "", "PyTorch fp32"].tolist() == [1.0, 50.0, 2.0, 50.0, 3.0, 50.0]
    assert both.loc["dense", "", "OpenVINO fp32"].drop("here").isna().all()


def test_a_line_that_only_the_shorter_run_has_is_shown():
    runs = {
        name: pd.DataFrame({"method": "dense", "label": "", "software": list(software), "ms": 1.0})
        for name, software in (("x", "ab"), ("y", "c"))
    }
    assert [software for _, _, software in tables.side_by_side(runs, ["ms"]).index] == ["a", "b", "c"]


def test_without_results_there_is_one_line(own_folders):
    assert results.contenders("study", "cifar10") == []
    with pytest.raises(ValueError, match="no results of cifar10"):
        contenders.measure(0.1)
