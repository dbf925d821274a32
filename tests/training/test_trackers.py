"""Loggers and callbacks of Lightning: the steps of all phases, and the same run after a resume."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger

from mv_lightning.artifacts.curves import tensorboard_curve
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import compare_phases
from mv_lightning.testing import tiny_options
from mv_lightning.training.checkpoint_files import checkpoints, read_checkpoint
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.trackers import continue_runs, keep_csv_rows, phase_logger
from mv_lightning.versioning import write_versioned_json
from tests.conftest import ROOT

STEP = VerdictModule.training_step
CONFIG = """
trainer:
  logger:
    - class_path: TensorBoardLogger
      init_args: {{save_dir: {run}, name: tensorboard, version: phase1}}
    - class_path: CSVLogger
      init_args: {{save_dir: {run}, name: csv, version: phase1}}
  callbacks:
    - class_path: EarlyStopping
      init_args: {{monitor: val/loss, patience: 9}}
    - class_path: ModelCheckpoint
      init_args: {{dirpath: {run}/saved, monitor: val/loss, save_top_k: 2}}
"""


class Killed(BaseException):
    """Like a kill: nothing in the program handles it."""


def fit(base: Path, run: Path, adapter: Path) -> PhaseFolder:
    """Train for 6 steps after the 4 of an adapter, with two loggers and two callbacks."""
    run.mkdir(exist_ok=True)
    config = run / "trackers.yaml"
    config.write_text(CONFIG.format(run=run))
    files = ["--config", str(ROOT / "configs/phase1.yaml"), "--config", str(config)]
    main(["fit", *files, *tiny_options(base, run), "--model.init_from", str(adapter)])
    return PhaseFolder(run, 1)


def csv_rows(folder: PhaseFolder, tag: str) -> list[tuple[int, float]]:
    with (folder.run / "csv/phase1/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), float(row[tag])) for row in rows if row[tag]]


def kept_models(folder: PhaseFolder) -> dict[str, float]:
    """The models that ModelCheckpoint keeps according to the last checkpoint, and their losses."""
    states = read_checkpoint(checkpoints(folder.checkpoints)[0])["callbacks"]
    (state,) = (state for name, state in states.items() if name.startswith("ModelCheckpoint"))
    return {Path(path).name: float(loss) for path, loss in state["best_k_models"].items()}


def test_loggers_and_callbacks_go_on_after_a_kill(
    trained_phase: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained_phase / "adapter"
    straight = fit(tiny_folder, tmp_path / "straight", adapter)

    def step(module: VerdictModule, batch: object, batch_idx: int) -> torch.Tensor:
        if batch_idx == 10:  # the sixth step; the last checkpoint is of the fourth
            raise Killed
        return STEP(module, batch, batch_idx)

    monkeypatch.setattr(VerdictModule, "training_step", step)
    with pytest.raises(Killed):
        fit(tiny_folder, tmp_path / "killed", adapter)
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    resumed = fit(tiny_folder, tmp_path / "killed", adapter)

    assert not any(compare_phases(straight, resumed).values())
    for tag in ("train/loss", "val/loss", "train/lr"):
        rows = csv_rows(straight, tag)
        assert rows == csv_rows(resumed, tag)
        curve = dict(tensorboard_curve(straight, tag))
        assert dict(rows) == pytest.approx(curve, rel=1e-6)  # TensorBoard stores fp32
    assert [step for step, _ in csv_rows(resumed, "train/loss")] == list(range(4, 10))
    assert [step for step, _ in csv_rows(resumed, "val/loss")] == [5, 7, 9]
    assert len(kept_models(straight)) == 2 and kept_models(straight) == kept_models(resumed)
    assert {path.name for path in (resumed.run / "saved").iterdir()} >= set(kept_models(resumed))


def test_rows_of_steps_that_are_repeated_are_left_out(tmp_path: Path) -> None:
    first = CSVLogger(tmp_path, "csv", "phase2", prefix="x")
    for step in range(50, 54):
        first.log_metrics({"train/loss": step / 4}, step)
    first.log_metrics({"val/loss": 0.5}, 51)
    first.save()
    second = CSVLogger(tmp_path, "csv", "phase2", prefix="x")
    keep_csv_rows([phase_logger(PhaseFolder(tmp_path, 2)), second], steps=52)
    second.log_metrics({"train/loss": 0.25}, 52)
    second.save()
    with (tmp_path / "csv/phase2/metrics.csv").open() as file:
        rows = [
            (row["step"], row["x-train/loss"], row["x-val/loss"]) for row in csv.DictReader(file)
        ]
    assert rows == [("50", "12.5", ""), ("51", "12.75", ""), ("51", "", "0.5"), ("52", "0.25", "")]


def test_a_tracker_continues_its_own_run_unless_another_is_named(tmp_path: Path) -> None:
    def loggers(**run_ids: str) -> list[Namespace]:
        csv_logger = Namespace(class_path="lightning.CSVLogger", init_args=Namespace(version=None))
        mlflow = Namespace(class_path="lightning.MLFlowLogger", init_args=Namespace(**run_ids))
        return [csv_logger, mlflow]

    folder = PhaseFolder(tmp_path, 1)
    given = loggers()
    continue_runs(given, folder)
    assert given == loggers(), "there is no earlier start"
    runs = [["CSVLogger", 0], ["MLFlowLogger", "abc"]]
    write_versioned_json(folder.trackers, {"runs": runs})
    continue_runs(given, folder)
    assert given == loggers(run_id="abc")
    named = loggers(run_id="other")
    continue_runs(named, folder)
    assert named == loggers(run_id="other")
    swapped = loggers()[::-1]
    continue_runs(swapped, folder)
    assert swapped == loggers()[::-1], "ids belong to the class that stored them"
