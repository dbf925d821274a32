"""The training that the benchmarks measure is that of the package, and its parts fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmarks import measure, train
from benchmarks.harness import STEP_ROWS, Training, short_run_adapter
from benchmarks.hf_reference import ReferenceModel, prompts
from benchmarks.measure import PACKAGE, Cost
from benchmarks.predict import Sides
from mv_lightning.model.base import BaseSettings
from mv_lightning.verifier import Verifier

STEPS = 2


@pytest.fixture
def training(tiny_settings: BaseSettings) -> Training:
    return Training(f"synthetic:{2 * STEP_ROWS * STEPS + 20}", STEPS, tiny_settings, rank=32)


def test_each_step_is_timed_and_its_rows_can_be_written(training: Training, tmp_path: Path) -> None:
    costs: list[tuple[int, Cost]] = []
    training.run(STEPS, lambda step, cost: costs.append((step, cost)))
    assert [step for step, _ in costs] == [0, 1]
    assert all(cost["cpu_s"] > 0 and cost["loss"] > 0 for _, cost in costs)
    training.write_texts(tmp_path / "texts.jsonl")
    lines = (tmp_path / "texts.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == STEP_ROWS * STEPS
    tokenizer, encoded = training.module.tokenizer, training.data.splits["train"].encoded
    assert (training.order == training.data.training_order(epoch=0)).all()
    for line, row in zip(lines, training.order.tolist(), strict=True):
        expected = encoded.row(row).tolist()
        assert tokenizer(json.loads(line)["prompt"])["input_ids"][-len(expected) :] == expected


def test_the_matrix_products_of_a_step_are_a_side(training: Training) -> None:
    turns = measure.alternate(training.run, train.matmul_sides(training), STEPS - 1)
    assert turns[0].keys() == {PACKAGE, "matmuls", "minimum"}
    assert turns[0]["matmuls"]["gflop"] > turns[0]["minimum"]["gflop"] > 0
    assert measure.ratios(turns, "matmuls")["median"] > 0


def test_trl_gets_the_rows_and_settings_of_the_training(
    training: Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[dict[str, Any]] = []

    class Trainer:
        """Answers like the child process, without one."""

        versions: ClassVar = {"trl": "0"}

        def __init__(self, name: str, **settings: Any) -> None:
            started.append(settings)

        def step(self) -> Cost:
            return {"cpu_s": 1.0, "wall_s": 1.0}

    monkeypatch.setattr(train, "BaselineTrainer", Trainer)
    monkeypatch.setattr(train, "WORK", tmp_path)
    sides = train.trl_sides("trl-best", training, STEPS, {})
    turns = measure.alternate(training.run, sides, STEPS - 1)
    assert turns[0].keys() == {PACKAGE, "padded", "padding-free"}
    assert [settings["steps"] for settings in started] == [STEPS, STEPS]
    assert Path(started[0]["texts"]).is_file()
    assert (Path(started[0]["model"]) / "config.json").is_file()


def test_the_adapter_of_a_short_run_predicts_on_both_sides(
    tiny_settings: BaseSettings, tiny_folder: Path, tmp_path: Path
) -> None:
    from benchmarks.predict import differences, reference_model

    folder = short_run_adapter("explanation", STEPS, tiny_settings, tmp_path)
    assert short_run_adapter("explanation", STEPS, tiny_settings, tmp_path) == folder
    verifier = Verifier.load(folder, device="cpu")
    rows = [{"question": f"What is {n} + {n}?", "answer": "4", "solution": ""} for n in range(6)]
    encoded = [verifier.encode(rows[:3]), verifier.encode(rows[3:])]
    reference = reference_model(folder, verifier.tokenizer, verifier.prompt)
    assert isinstance(reference, ReferenceModel)
    sides = Sides(verifier, reference, encoded, 2)
    for turn in range(2):
        assert sides.package(turn)["rows"] == 3
        sides.padded(turn)
    compared = differences(np.concatenate(sides.log_odds), np.array(sides.answers))
    assert compared["rows"] == 6 and compared["largest_difference"] < 0.1
    assert sides.generate(0)["new_tokens_of_batches"] <= 2
    assert len(prompts(encoded[0])) == 3
