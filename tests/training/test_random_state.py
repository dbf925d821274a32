"""The random generators are restored, also where the state of a GPU cannot be."""

from __future__ import annotations

import random

import numpy as np
import torch

from mv_lightning.training.random_state import get_random_state, set_random_state

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002


def test_all_generators_draw_again_what_they_drew() -> None:
    draw()
    state = get_random_state(CPU)
    expected = [draw() for _ in range(3)]
    draw()
    set_random_state(state, CPU)
    assert [draw() for _ in range(3)] == expected


def test_a_state_of_a_gpu_is_left_alone_on_a_cpu() -> None:
    """As on a machine that shows fewer GPUs than the run began with."""
    state = get_random_state(CPU) | {"cuda": torch.ones(816, dtype=torch.uint8)}
    expected = draw()
    set_random_state(state, CPU)
    assert draw() == expected
