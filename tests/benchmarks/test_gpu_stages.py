"""Every stage of the GPU benchmark runs with a small model on a CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import gpu_stages
from benchmarks.gpu_inputs import RowLengths, report_rows, write_rows
from benchmarks.gpu_stages import SMALL, STAGES, recompute_every_layer
from benchmarks.harness import STEP_ROWS, Training
from benchmarks.llama import write_base
from mv_lightning.model.base import BaseSettings

ROWS = 100
"""More than `SMALL` needs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the base and the rows."""
    folder = tmp_path_factory.mktemp("stages")
    write_base(folder / "base", SMALL.shape)
    lengths = RowLengths()
    rows = [lengths.stretch(row, 140) for row in report_rows(ROWS)]
    write_rows(folder / "rows.jsonl", rows)
    return folder


def check_steps(speed: dict[str, Any], steps: int) -> None:
    assert len(speed["steps"]) == steps
    assert speed["rows_per_s"] == pytest.approx(STEP_ROWS / speed["seconds_a_step"]["median"])
    assert speed["peak_gb"] is speed["reserved_gb"] is None  # there is no GPU


def test_the_profile_covers_the_steps(folder: Path) -> None:
    result = STAGES["profile"](folder, SMALL)
    assert result["profiled_steps"] == SMALL.profiled
    assert result["kernels_a_step"] > 20 and result["largest"][0]["ms_a_step"] > 0
    assert 0 <= result["idle_share"] < 1
    assert result["launches_a_step"] is None


@pytest.mark.slow
def test_one_model_is_trained_in_two_ways_saved_and_used(folder: Path) -> None:
    result = STAGES["package"](folder, SMALL)
    check_steps(result, SMALL.steps)
    check_steps(result["recomputed"], SMALL.steps)
    assert result["packed_tokens_per_s"]["median"] < result["tokens_per_s"]["median"]
    assert result["checkpoint_gb"] > 0 and result["checkpoint_s"] > 0
    assert result["predicted_rows"] == SMALL.predicted
    assert result["mfu"] > 0


@pytest.mark.slow
def test_phase_1_runs_on_rows_of_one_length(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = STAGES["phase1"](folder, SMALL)
    assert (result["steps"], result["rows"]) == (SMALL.steps, SMALL.steps * STEP_ROWS)
    tokens_a_row = result["tokens"] / result["rows"]
    assert tokens_a_row == pytest.approx(SMALL.long_row, abs=5)


@pytest.mark.slow
def test_generation_is_measured(folder: Path) -> None:
    result = STAGES["generate"](folder, SMALL)
    assert result["predicted_rows"] == SMALL.generated
    assert 0 < result["new_tokens_of_batches"] <= SMALL.new_tokens


def test_trl_gets_the_rows_of_the_package_and_its_median_step_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    seconds = iter([9.0, 8.0, 1.0, 4.0, 2.0])

    class Trainer:
        """Answers like the child process, without one."""

        versions: ClassVar = {"trl": "0"}

        def __init__(self, name: str, **settings: Any) -> None:
            started.append(settings)

        def step(self) -> dict[str, Any]:
            return {"wall_s": next(seconds), "peak_gb": None, "reserved_gb": None}

        def stop(self) -> None:
            pass

    monkeypatch.setattr(gpu_stages, "BaselineTrainer", Trainer)
    size = dataclasses.replace(SMALL, steps=5, warm_up=2)
    result = STAGES["trl"](folder, size)
    check_steps(result, steps=5)
    assert result["seconds_a_step"]["median"] == 2
    assert result["epoch_minutes"] == pytest.approx(19_800 / 8 * 2 / 60)
    # The package trains for twice as many steps, the second half with recomputation.
    expected = folder / "expected.jsonl"
    rows, base = str(folder / "rows.jsonl"), BaseSettings(str(folder / "base"))
    Training(rows, 2 * size.steps, base).write_texts(expected)
    assert Path(started[0]["texts"]).read_bytes() == expected.read_bytes()
    assert len(expected.read_text("utf-8").splitlines()) == 2 * size.steps * STEP_ROWS


def test_recomputation_begins_with_the_next_step(tiny_settings: BaseSettings) -> None:
    settings = dataclasses.replace(tiny_settings, gradient_checkpointing=10_000)
    training = Training(f"synthetic:{4 * STEP_ROWS + 20}", 2, settings)
    recomputed: list[set[bool]] = []

    def after_step(_: int, __: Any) -> None:
        layers = training.module.causal_model.base_model.layers
        recomputed.append({layer.gradient_checkpointing for layer in layers})
        recompute_every_layer(training)

    training.run(2, after_step)
    assert recomputed == [{False}, {True}]
