"""Every engine gives the network's own answer, in a process of its own, or says in one line why it does not run."""

import importlib.util
import os

import pytest
import tiny
import torch

from helpers import data, engines, models

INSTALLED = [name for name in engines.ENGINES if engines.unavailable(name) is None]
OTHERS = [name for name in engines.ENGINES if name.startswith(("ONNX", "OpenVINO"))]
ROUNDED = 0.05  # of the logits' size: what 8 bits may cost a network of so few channels


@pytest.fixture(scope="module")
def network() -> models.VGG:
    """A network whose batch norms do something, and which is only just no copy of its folded self."""
    made = tiny.network().train()
    made(data.normalize(tiny.images(64).images, made.normalization))
    return made.eval()


@pytest.fixture(scope="module")
def images(network) -> torch.Tensor:
    """More than one batch and less than two."""
    return data.normalize(tiny.images(130).images, network.normalization)


@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_engine_answers_as_the_network_does(name, network, images):
    if reason := engines.unavailable(name):
        pytest.skip(reason)
    with torch.inference_mode(), engines.Engine(name, network, images) as engine:
        expected, found = network(images), engine(images)
        assert found.shape == expected.shape
        if not engines.saturates(name):
            assert (found - expected).norm() <= (1e-5 if name.endswith("fp32") else ROUNDED) * expected.norm()
        once, several = engine.times(images[:1], 0), engine.times(images[:1], 0.05)
        assert len(once) == 1 < len(several) and min(once + several) > 0
        if name.startswith(("PyTorch", "zeros")):
            assert engine.size_mib is None
        else:
            dense = sum(p.numel() for p in network.parameters())
            assert dense < engine.size_mib * 2**20 < 4 * dense + 200_000  # a graph of so few weights is mostly its own text


def test_a_network_stays_as_it_was_and_the_process_ends(network, images):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training = network.train()
    engine = engines.Engine("PyTorch fp32", training, images[:1])
    [child] = engine._pool._processes
    assert child != os.getpid()
    engine.close()
    network.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_installed_is_one_line_with_the_way_out(name, network, images, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(engines.Unavailable, match=r"is not installed.*\[engines\]") as caught:
        engines.Engine(name, network, images[:1])
    assert "\n" not in str(caught.value)


def test_what_the_processor_lacks_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object())
    monkeypatch.setattr(engines.machine, "processor_flags", lambda: frozenset({"avx2"}))
    assert "bfloat16" in engines.unavailable("OpenVINO bf16") and "bfloat16" in engines.unavailable("PyTorch bf16")
    assert engines.saturates("OpenVINO int8") and not engines.saturates("OpenVINO int8, 7-bit weights")
    monkeypatch.setattr(engines.machine, "processor_flags", lambda: frozenset({"avx512_bf16", "avx512_vnni"}))
    assert engines.unavailable("OpenVINO bf16") is None and not engines.saturates("OpenVINO int8")


def test_a_misspelt_engine_and_another_network_are_refused(network, images):
    with pytest.raises(ValueError, match="did you mean 'OpenVINO int8'"):
        engines.Engine("OpenVINO int 8", network, images)
    with pytest.raises(TypeError, match="VGG"):
        engines.Engine("PyTorch fp32", torch.nn.Linear(2, 2), images)


class Recorded:
    """In place of an engine: says when it was asked."""

    def __init__(self, name: str, asked: list, times: list[float]):
        self.name, self.asked, self.of_a_block = name, asked, times

    def times(self, images: torch.Tensor, seconds: float) -> list[float]:
        self.asked.append((self.name, seconds))
        return self.of_a_block


def test_engines_take_turns_forwards_and_backwards():
    asked: list = []
    both = {"a": Recorded("a", asked, [1.0, 2.0, 9.0]), "b": Recorded("b", asked, [4.0])}
    found = engines.latency(both, torch.zeros(1), min_seconds=3.0, rounds=3)
    assert asked == [("a", 1.0), ("b", 1.0), ("b", 1.0), ("a", 1.0), ("a", 1.0), ("b", 1.0)]
    assert (found["a"].median_ms, found["a"].p90_ms, found["a"].runs) == (2.0, 9.0, 9)
    assert (found["b"].median_ms, found["b"].runs) == (4.0, 3)
