"""A search space is read, or refused with what is wrong; the report's settings are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.experiments.search_space import Dimension, read_space
from mv_lightning.training.cli import parse
from tests.conftest import ROOT

SPACE = """
title: two options
base: [base.yaml]
options: {trainer.max_steps: 8}
space:
  model.optim.lr: {low: 1.0e-5, high: 1.0e-3, log: true}
  model.optim.warmup_steps: {low: 0, high: 20}
  model.optim.schedule: {choices: [linear, cosine]}
  model.lora.r: {choices: [16, 64, 128]}
pruning: {first_rung: 2, reduction: 4}
"""


def space_file(folder: Path, text: str) -> Path:
    file = folder / "space.yaml"
    file.write_text(text)
    return file


def test_a_space_is_read(tmp_path: Path) -> None:
    space = read_space(space_file(tmp_path, SPACE))
    assert space.title == "two options" and space.base == [(tmp_path / "base.yaml").resolve()]
    assert (space.first_rung, space.reduction) == (2, 4)
    assert space.dimensions["model.optim.lr"] == Dimension(low=1e-5, high=1e-3, log=True)
    assert space.dimensions["model.optim.warmup_steps"].is_integer
    corners = space.corners()
    for name, dimension in space.dimensions.items():
        assert {corner[name] for corner in corners} == set(dimension.ends)
    assert len(corners) == 3


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Dimension(low=0.5, high=2.0), [0.5, 1, 2.0], [0.4, 3, True, "1", None]),
        (Dimension(low=1, high=8), [1, 8, 2.0], [0, 2.5]),
        (Dimension(choices=("linear", None, 3)), ["linear", None, 3], ["cosine", 4]),
    ],
)
def test_what_a_dimension_contains(
    dimension: Dimension, inside: list[object], outside: list[object]
) -> None:
    assert all(dimension.contains(value) for value in inside)
    assert not any(dimension.contains(value) for value in outside)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: [", "cannot be read"),
        ("axes: {}", "expected a mapping of"),
        ("options: {}", "expected options under space"),
        ("space: {model.lora.r: {choices: [8]}}", "two or more choices"),
        ("space: {model.lora.r: {choices: [[1], [2]]}}", "two or more choices"),
        ("space: {model.optim.lr: {low: 1e-5, high: 1.0}}", "1e-5 as a text"),
        ("space: {model.optim.lr: {low: 0, high: 1, log: true}}", "above 0 with log"),
        ("space: {model.optim.lr: {low: 2, high: 1}}", "low < high"),
        ("space: {model.optim.lr: {low: 1}}", "numbers low and high"),
        ("space: {data.splits.seed: {choices: [1, 2]}}", "must be the same in all trials"),
        ("space: {trainer.max_steps: {low: 1, high: 9}}", "must be the same in all trials"),
        ("space: {a: {choices: [1, 2]}}\noptions: {a: 1}", "sets a in options and space"),
        ("space: {a: {choices: [1, 2]}}\npruning: {reduction: 1}", "reduction of at least 2"),
        ("space: {a: {choices: [1, 2]}}\nbase: x.yaml", "base a list"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_space(space_file(tmp_path, text))


def test_the_first_trial_has_the_settings_of_the_report(tmp_path: Path) -> None:
    defaults = parse(["fit"])
    for file in (space_file(tmp_path, SPACE), ROOT / "configs" / "experiments" / "tune.yaml"):
        space = read_space(file)
        first = space.first_trial(defaults)
        assert first["model.optim.lr"] == 1e-4 and first["model.lora.r"] == 128
        assert first["model.optim.warmup_steps"] == 10
    narrow = space_file(tmp_path, "space: {model.lora.r: {choices: [8, 16]}}")
    with pytest.raises(ValueError, match=r"model\.lora\.r=128 is not among \[8, 16\]"):
        read_space(narrow).first_trial(defaults)
