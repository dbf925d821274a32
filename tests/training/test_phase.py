"""A phase is finished when its planned steps are done; every other end says how to continue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import compare_phases
from mv_lightning.model.adapter_files import WEIGHTS
from mv_lightning.testing import tiny_options
from mv_lightning.training.checkpoint_files import checkpoints, read_checkpoint
from mv_lightning.training.memory import MemoryProbe
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.phase import Phase
from mv_lightning.training.settings import RunSettings
from mv_lightning.training.throughput import ThroughputMonitor
from tests.conftest import ROOT

STEP = VerdictModule.training_step
EARLY_STOPPING = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {monitor: val/loss, mode: max, patience: 1, verbose: false}
"""
"""The loss falls, so that a callback that wants it to rise stops at the second validation."""


def fit(base: Path, run: Path, *options: str, config: str = "phase1") -> PhaseFolder:
    main(
        [
            "fit",
            "--config",
            str(ROOT / f"configs/{config}.yaml"),
            *tiny_options(base, run),
            *options,
        ]
    )
    return PhaseFolder(run, int(config.removeprefix("phase")))


def summary(folder: PhaseFolder) -> dict[str, object]:
    return json.loads(folder.summary.read_text())


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PhaseFolder:
    """A finished phase of 6 steps."""
    return fit(tiny_folder, tmp_path_factory.mktemp("straight"))


def test_the_probe_of_the_memory_is_not_a_part_of_the_time(tmp_path: Path) -> None:
    callbacks = Phase(PhaseFolder(tmp_path, 1), RunSettings(), {}).callbacks("fit")
    kinds = [type(callback) for callback in callbacks]
    assert kinds.index(MemoryProbe) < kinds.index(ThroughputMonitor)


def test_the_summary_states_the_plan_and_the_reason(straight: PhaseFolder) -> None:
    stored = summary(straight)
    assert (stored["steps"], stored["planned_steps"], stored["stop_reason"]) == (6, 6, "planned")
    assert read_checkpoint(checkpoints(straight.checkpoints)[0])["stop_reason"] == "planned"
    assert read_checkpoint(checkpoints(straight.checkpoints)[1])["stop_reason"] is None


def test_a_dev_run_leaves_nothing(
    straight: PhaseFolder, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_folder, tmp_path / "run", "--trainer.fast_dev_run", "true")
    adapter = ["--model.init_from", str(straight.adapter), "--trainer.fast_dev_run", "true"]
    predict = ["predict", "--config", str(ROOT / "configs/predict.yaml")]
    main([*predict, *tiny_options(tiny_folder, tmp_path / "run"), *adapter])
    assert not (tmp_path / "run").exists()
    assert "nothing is saved" in capsys.readouterr().out


def test_max_time_stops_at_a_step_and_the_same_command_resumes(
    straight: PhaseFolder,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The time is over in the middle of the fourth step, whose micro-batches are 6 and 7."""
    left = {"seconds": 100.0}
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.Timer.time_remaining", lambda timer: left["seconds"]
    )

    def step(module: VerdictModule, batch: object, batch_idx: int) -> torch.Tensor:
        if batch_idx == 6:
            left["seconds"] = 0.0
        return STEP(module, batch, batch_idx)

    monkeypatch.setattr(VerdictModule, "training_step", step)
    folder = fit(tiny_folder, tmp_path, "--trainer.max_time", "00:01:00:00")
    message = capsys.readouterr().out
    assert "max_time is over: stopped after step 4 of 6; the same command resumes from" in message
    assert not folder.summary.exists() and not folder.adapter.exists()
    assert read_checkpoint(checkpoints(folder.checkpoints)[0])["stop_reason"] == "time"
    left["seconds"] = 100.0
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    fit(tiny_folder, tmp_path, "--trainer.max_time", "00:01:00:00")
    assert not any(compare_phases(straight, folder).values())


def test_an_early_stopped_phase_is_finished_and_never_trains_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "early.yaml"
    config.write_text(EARLY_STOPPING)
    folder = fit(tiny_folder, tmp_path / "run", "--config", str(config))
    stored = summary(folder)
    assert (stored["steps"], stored["planned_steps"]) == (4, 6)
    assert stored["stop_reason"] == "early_stopped"
    weights = load_file(folder.adapter / WEIGHTS)
    # As after a kill between the last checkpoint and the summary.
    folder.summary.unlink()

    def step(module: VerdictModule, batch: object, batch_idx: int) -> torch.Tensor:
        raise AssertionError("the phase trains on")

    monkeypatch.setattr(VerdictModule, "training_step", step)
    fit(tiny_folder, tmp_path / "run", "--config", str(config))
    assert summary(folder)["steps"] == 4
    again = load_file(folder.adapter / WEIGHTS)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_callback_that_stops_within_a_step_loses_no_gradient(
    straight: PhaseFolder,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def step(module: VerdictModule, batch: object, batch_idx: int) -> torch.Tensor:
        module.trainer.should_stop = batch_idx == 6
        return STEP(module, batch, batch_idx)

    monkeypatch.setattr(VerdictModule, "training_step", step)
    folder = fit(tiny_folder, tmp_path)
    assert "a callback stopped the training" in capsys.readouterr().out
    assert not folder.summary.exists()
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    fit(tiny_folder, tmp_path)
    differences = compare_phases(straight, folder)
    differences.pop("val/loss")  # Lightning validates once more where it is stopped
    assert not any(differences.values())


def test_a_finished_phase_names_the_settings_that_differ(
    straight: PhaseFolder, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_folder, straight.run, "--model.optim.lr", "0.5")
    message = capsys.readouterr().out
    assert "is finished (6 steps, planned)" in message
    assert "other settings: model.optim.lr was 0.0001, is 0.5" in message


@pytest.mark.slow
def test_a_phase_whose_first_adapter_was_replaced_is_not_finished(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_folder, tmp_path)
    fit(tiny_folder, tmp_path, config="phase2")
    fit(tiny_folder, tmp_path, "--fresh", "--model.optim.lr", "0.01")
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, tmp_path, config="phase2")
    assert end.value.code == 2
    assert "was trained from another adapter" in capsys.readouterr().err


def test_a_partial_validation_does_not_replace_a_complete_one(
    straight: PhaseFolder, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(straight.metrics.read_text())["val"]
    options = tiny_options(tiny_folder, straight.run)
    limits = ["--trainer.limit_val_batches", "0.5", "--data.eval_tokens", "700"]
    main(["validate", "--config", str(ROOT / "configs/phase1.yaml"), *options, *limits])
    stored = json.loads(straight.metrics.read_text())
    assert stored["val"] == before and stored["partial_val"]["rows"] < before["rows"]
    assert f"of {before['rows']} rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "split", "option"),
    [
        ("validate", "validation", "--data.splits.val_fraction"),
        ("test", "test", "--data.splits.test_rows"),
    ],
)
def test_nothing_to_evaluate_is_one_message(
    command: str,
    split: str,
    option: str,
    straight: PhaseFolder,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = tiny_options(tiny_folder, straight.run)
    with pytest.raises(SystemExit) as end:
        main([command, "--config", str(ROOT / "configs/phase1.yaml"), *options, option, "0"])
    message = capsys.readouterr().err
    assert end.value.code == 2 and f"expected {split} rows to evaluate on, got none" in message
    assert option.removeprefix("--") in message
