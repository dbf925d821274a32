"""Every stage of the GPU benchmark runs with a small model on a CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_stages
from benchmarks.gpu_inputs import report_rows, write_rows
from benchmarks.gpu_stages import EPOCH_ROWS, SMALL, STAGES, recompute_every_layer
from benchmarks.harness import STEP_ROWS, Training
from benchmarks.llama import write_base
from mv_lightning.model.base import BaseSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the base and the rows."""
    folder = tmp_path_factory.mktemp("stages")
    write_base(folder / "base", SMALL.shape)
    write_rows(folder / "rows.jsonl", report_rows(SMALL.rows))
    return folder


def check_speed(speed: dict[str, Any]) -> None:
    assert len(speed["steps"]) == SMALL.steps
    counted = sorted(step["wall_s"] for step in speed["steps"][SMALL.warm_up :])
    median = (counted[0] + counted[-1]) / 2
    assert speed["seconds_a_step"]["median"] == pytest.approx(median)
    assert speed["rows_per_s"] == pytest.approx(STEP_ROWS / median)
    assert speed["epoch_minutes"] == pytest.approx(EPOCH_ROWS / STEP_ROWS * median / 60)
    assert speed["peak_gb"] is speed["reserved_gb"] is None  # there is no GPU


def test_the_profile_covers_the_steps(folder: Path) -> None:
    result = STAGES["profile"](folder, SMALL)
    assert result["profiled_steps"] == SMALL.profiled
    assert result["kernels_a_step"] > 50 and result["largest"][0]["ms_a_step"] > 0
    assert 0 <= result["idle_share"] < 1
    assert result["launches_a_step"] is None


def test_one_model_is_trained_in_two_ways_saved_and_used(folder: Path) -> None:
    result = STAGES["package"](folder, SMALL)
    check_speed(result)
    check_speed(result["recomputed"])
    assert result["packed_tokens_per_s"]["median"] < result["tokens_per_s"]["median"]
    assert result["checkpoint_gb"] > 0 and result["checkpoint_s"] > 0
    assert result["predicted_rows"] == SMALL.predicted
    assert 0 < result["mfu"] < 1


def test_phase_1_runs_on_rows_of_the_maximum_length(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = STAGES["phase1"](folder, SMALL)
    assert (result["steps"], result["rows"]) == (SMALL.steps, SMALL.steps * STEP_ROWS)
    assert result["tokens"] == SMALL.steps * STEP_ROWS * gpu_stages.MAX_LENGTH


def test_generation_is_measured(folder: Path) -> None:
    result = STAGES["generate"](folder, SMALL)
    assert result["predicted_rows"] == SMALL.generated
    assert 0 < result["new_tokens_of_batches"] <= SMALL.new_tokens


def test_trl_gets_the_rows_of_the_package_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []

    class Trainer:
        """Answers like the child process, without one."""

        versions: dict[str, str] = {"trl": "0"}  # noqa: RUF012

        def __init__(self, name: str, **settings: Any) -> None:
            started.append(settings)

        def step(self) -> dict[str, Any]:
            return {"wall_s": 2.0, "peak_gb": None, "reserved_gb": None}

        def stop(self) -> None:
            pass

    monkeypatch.setattr(gpu_stages, "BaselineTrainer", Trainer)
    result = STAGES["trl"](folder, SMALL)
    check_speed(result)
    assert result["rows_per_s"] == STEP_ROWS / 2
    lines = Path(started[0]["texts"]).read_text("utf-8").splitlines()
    assert len(lines) == 2 * SMALL.steps * STEP_ROWS
    expected = folder / "expected.jsonl"
    rows = str(folder / "rows.jsonl")
    Training(rows, 2 * SMALL.steps, BaseSettings(str(folder / "base"))).write_texts(expected)
    assert lines == expected.read_text("utf-8").splitlines()


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
