"""Memory kept while training: fewer page faults, and the usual settings afterwards, whatever happens."""

import contextlib
import ctypes
import math
import os
import resource

import pytest
import torch

from helpers import data, heap, models, training

SIZE = 64 * 2**20  # bytes, in blocks that the C library maps one by one

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def faults(rounds: int) -> int:
    """Page faults of filling and freeing a block `rounds` times, once the heap has come to rest (aligned blocks move in it)."""
    for _ in range(20):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_kept_memory_is_used_again_and_then_given_back():
    pages = SIZE // os.sysconf("SC_PAGE_SIZE")
    with heap.kept():
        assert faults(10) < pages  # not even one block's in ten rounds
        while_kept = resident()
    assert resident() < while_kept - SIZE // 2


@glibc
@pytest.mark.parametrize("fails", [False, True])
def test_a_training_keeps_memory_and_puts_the_usual_settings_back_even_when_it_fails(monkeypatch, fails):
    were_set = []
    monkeypatch.setattr(heap, "_set", lambda library, values: were_set.append(values))
    network = models.VGG(10, (2, "M"), (4,))
    if fails:
        network.classifier[-1].bias.data.fill_(math.inf)
    with pytest.raises(FloatingPointError) if fails else contextlib.nullcontext():
        training.fit(network, data.load("digits").train.subset(torch.arange(32)), training.Recipe(1, batch_size=16))
    assert were_set == [heap.KEPT, heap.USUAL]
