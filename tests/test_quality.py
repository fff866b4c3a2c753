"""benchmarks/quality: which of two artifacts is better."""

from __future__ import annotations

import random

from benchmarks.quality import Contender, better

WINDOWS, POSITIONS = 64, 255


def contender(bits: float, shift: float, seed: int, loss: float = 0.0) -> Contender:
    """Windows differ far more from each other than the two artifacts do in any one of them."""
    windows, own = random.Random(0), random.Random(seed)
    kl = [
        POSITIONS * (windows.uniform(0.001, 0.05) + shift + own.gauss(0, 0.0005))
        for _ in range(WINDOWS)
    ]
    losses = [
        POSITIONS * (windows.uniform(-0.05, 0.05) + loss + own.gauss(0, 0.0005))
        for _ in range(WINDOWS)
    ]
    counts = [float(POSITIONS)] * WINDOWS
    return Contender(
        "x", "openvino", ours=False, bits=bits, kl=kl, positions=counts, loss=losses, tokens=counts
    )


def test_better_is_no_larger_and_surely_closer_window_by_window() -> None:
    close, far = contender(4.16, 0.0, 1), contender(4.16, 0.002, 2)
    assert better(close, far)
    assert not better(far, close)


def test_more_bytes_are_never_better_and_as_many_are_the_same() -> None:
    far = contender(4.16, 0.002, 2)
    assert not better(contender(4.3, 0.0, 1), far)
    assert better(contender(4.165, 0.0, 1), far)


def test_what_chance_explains_is_not_better() -> None:
    assert not better(contender(4.16, 0.0, 1), contender(4.16, 0.0, 2))


def test_what_is_closer_and_predicts_worse_is_not_better() -> None:
    far = contender(4.16, 0.002, 2)
    assert better(contender(4.16, 0.0, 1, loss=-0.01), far)
    assert not better(contender(4.16, 0.0, 1, loss=0.01), far)
