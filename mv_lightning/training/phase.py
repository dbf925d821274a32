"""One phase of a run: how it starts or resumes, what is monitored, and what it leaves when it is
finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mv_lightning.artifacts.calibrations import save_calibration
from mv_lightning.artifacts.evaluations import save_report
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.formatting import setting_differences
from mv_lightning.hashing import sha256_file
from mv_lightning.metrics.evaluation import EvalReport, evaluate, evaluate_adversarial
from mv_lightning.model.adapter_files import WEIGHTS, read_metadata
from mv_lightning.training.best_adapter import BestAdapter
from mv_lightning.training.checkpoint_files import (
    check_settings,
    find_corruption,
    latest_valid,
    read_checkpoint,
)
from mv_lightning.training.datamodule import VerdictDataModule
from mv_lightning.training.environment import environment
from mv_lightning.training.evaluator import Evaluator
from mv_lightning.training.memory import MemoryProbe, peak_memory_gb
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.resume_checkpoint import MaxTime, ResumeCheckpoint
from mv_lightning.training.run_lock import RunLock
from mv_lightning.training.settings import RunSettings
from mv_lightning.training.step_rows import ACCUMULATE, BATCH_SIZE
from mv_lightning.training.stopping import (
    FINAL_REASONS,
    StopReason,
    TrainingStopped,
    planned_steps,
    stop_reason,
)
from mv_lightning.training.throughput import ThroughputMonitor
from mv_lightning.training.trackers import keep_csv_rows, log_figures
from mv_lightning.versioning import read_versioned_json, write_versioned_json


class Phase:
    """Owns the folder, the settings and the monitors of a phase."""

    def __init__(
        self,
        folder: PhaseFolder,
        run: RunSettings,
        settings: Mapping[str, Any],
        init_from: Path | None = None,
        dev_run: bool = False,
    ) -> None:
        """Touch nothing yet.

        Args:
            folder: Where the phase is stored.
            run: How often it is validated and saved.
            settings: What a resumed phase must not change, see `resume_locked_settings`.
            init_from: Folder of the adapter that it starts from.
            dev_run: Whether `trainer.fast_dev_run` is set: then nothing is stored.
        """
        self.folder = folder
        self.evaluator = Evaluator()
        self.throughput = ThroughputMonitor()
        self._run = run
        self._settings = dict(settings)
        self._init_from = init_from
        self._dev_run = dev_run
        self._lock = RunLock(folder.lock)
        self._checkpoint: Path | None = None
        self._checkpoint_step = 0
        self._early_stopped_step: int | None = None
        self._finished = False
        self._best: BestAdapter | None = None
        self.steps_before = 0
        """Optimizer steps of the phases before; known once the phase is open."""

    def open(self, command: str, ckpt_path: str | None = None) -> None:
        """Take the folder, and choose the checkpoint to resume from.

        Args:
            command: `fit`, `validate`, `test` or `predict`.
            ckpt_path: A certain checkpoint. By default, `fit` takes the newest valid one.

        Raises:
            ValueError: Another process uses the folder, or the checkpoint is missing, damaged or of
                another run.
        """
        if self._init_from is not None:
            self.steps_before = read_metadata(self._init_from)["steps"]
        if self._dev_run or command == "predict":
            return
        self._finished = self.folder.summary.exists() and not self._run.fresh
        if command == "fit" and self._finished:
            return
        if rank_zero_only.rank == 0:
            self._lock.acquire()
        if command == "fit" and not self._run.fresh:
            self._choose_checkpoint(ckpt_path)

    def close(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def callbacks(self, command: str, max_time: MaxTime = None) -> list[pl.Callback]:
        """Return the callbacks that monitor and save the phase.

        Args:
            command: `fit`, `validate`, `test` or `predict`.
            max_time: See `ResumeCheckpoint`.
        """
        if command == "predict":
            return []
        callbacks: list[pl.Callback] = [self.evaluator]
        if command == "fit":
            # The probe is also what warms a GPU up; neither is a part of the speed.
            callbacks += [MemoryProbe(), self.throughput]
        if command == "fit" and not self._dev_run:
            self._best = BestAdapter(self.folder.best, self.evaluator, self.steps_before)
            callbacks += [
                self._best,
                ResumeCheckpoint(
                    self.folder, self._run, self._settings, self.steps_before, max_time
                ),
            ]
        return callbacks

    def fit(
        self, trainer: pl.Trainer, module: VerdictModule, datamodule: VerdictDataModule
    ) -> None:
        """Train the phase to its end, from the start or from the checkpoint that `open` chose.

        Args:
            trainer: With the callbacks of this phase.
            module: The model.
            datamodule: The data.

        Raises:
            ValueError: The checkpoint has other settings, data or weights.
            SystemExit: A signal stopped the run; its state is saved.
        """
        if self._finished:
            trainer.strategy.teardown()
            self._print_finished()
            return
        if self._run.fresh and trainer.is_global_zero and not self._dev_run:
            self.folder.rename_existing()
        if self._checkpoint is not None:
            print(f"{self.folder.path} was interrupted; resuming from {self._checkpoint}")
            if trainer.is_global_zero:
                keep_csv_rows(trainer.loggers, self.steps_before + self._checkpoint_step)
        if self._early_stopped_step is not None:  # train no further
            trainer.fit_loop.epoch_loop.max_steps = self._early_stopped_step
        # Read by the module too: weights that a checkpoint replaces need no initialisation.
        trainer.ckpt_path = self._checkpoint
        try:
            trainer.fit(module, datamodule=datamodule)
        except TrainingStopped as stop:
            self._print_stopped(trainer, datamodule, stop.reason, stop.step)
            if stop.signal_number is not None:
                raise SystemExit(128 + stop.signal_number) from stop
            return
        trainer.ckpt_path = None
        reason = stop_reason(trainer)
        if self._dev_run:
            print(
                f"fast_dev_run: {trainer.global_step} steps ran without an error; nothing is saved"
            )
        elif reason in FINAL_REASONS:
            self._finish(trainer, module, datamodule, reason)
        else:
            self._print_stopped(trainer, datamodule, reason, trainer.global_step)

    def report(self, datamodule: VerdictDataModule, stage: str) -> EvalReport:
        """Return the metrics of the last evaluation, and write them into the phase's folder.

        Args:
            datamodule: The data.
            stage: `val` or `test`.
        """
        if self.evaluator.outputs is None:
            raise ValueError(
                f"no {stage} row was evaluated: expected trainer.limit_{stage}_batches above 0, or "
                "left out"
            )
        report = evaluate(self.evaluator.outputs, datamodule.splits[stage])
        if stage == "test" and self.evaluator.adversarial is not None:
            adversarial = evaluate_adversarial(
                self.evaluator.adversarial,
                datamodule.splits["adversarial"],
                self.evaluator.outputs,
            )
            report = dataclasses.replace(report, adversarial=adversarial)
        if not self._dev_run:
            save_report(self.folder, stage, report)
        return report

    def _choose_checkpoint(self, ckpt_path: str | None) -> None:
        path = latest_valid(self.folder.checkpoints) if ckpt_path is None else Path(ckpt_path)
        if path is None:
            return
        if not path.is_file():
            raise ValueError(f"--ckpt_path {path}: there is no such file")
        checkpoint = read_checkpoint(path, mmap=True)
        compared = self._settings.keys() - {BATCH_SIZE, ACCUMULATE}  # ResumeCheckpoint does
        check_settings(path, checkpoint, {name: self._settings[name] for name in sorted(compared)})
        if ckpt_path is not None:
            corruption = find_corruption(path)
            if corruption:
                raise ValueError(f"--ckpt_path {path} is damaged: {corruption}. Name another one")
        self._checkpoint = path
        self._checkpoint_step = checkpoint["global_step"]
        self.steps_before = checkpoint["steps_before"]
        if checkpoint["stop_reason"] == "early_stopped":
            self._early_stopped_step = checkpoint["global_step"]

    def _finish(
        self,
        trainer: pl.Trainer,
        module: VerdictModule,
        datamodule: VerdictDataModule,
        reason: StopReason,
    ) -> None:
        """Validate the final weights, save the adapter with its calibration, and write the
        summary."""
        steps = trainer.global_step
        validated = self.evaluator.step == steps
        if len(datamodule.splits["val"].encoded) and not validated:
            trainer.validate(module, datamodule=datamodule, verbose=False)
        if not trainer.is_global_zero:
            return
        module.save_adapter(self.folder.adapter, self.steps_before + steps)
        summary = self._summary(trainer, datamodule, steps, reason)
        if self.evaluator.outputs is not None:
            report = self.report(datamodule, "val")
            save_calibration(self.folder.adapter, self.evaluator.outputs, datamodule.train_share)
            values = {
                "loss": report.loss,
                "acc": report.overall.values["accuracy"],
                "auroc": report.overall.values["auroc"],
            }
            for name, value in values.items():
                summary[f"val_{name}"] = None if isnan(value) else value
            self._log(trainer, report, {} if validated else values)
        write_versioned_json(self.folder.summary, summary)
        accuracy = f", validation accuracy {summary['val_acc']:.3f}" if "val_acc" in summary else ""
        print(
            f"{self.folder.path.name}: {steps} steps, {summary['rows']:,} rows, "
            f"{summary['minutes']:.1f} min{accuracy}, adapter in {self.folder.adapter}"
        )

    def _summary(
        self,
        trainer: pl.Trainer,
        datamodule: VerdictDataModule,
        steps: int,
        reason: StopReason,
    ) -> dict[str, Any]:
        assert self._best is not None
        device = trainer.strategy.root_device  # the module was moved off it when training ended
        outputs, train = self.evaluator.outputs, datamodule.splits["train"]
        return {
            "phase": self.folder.phase,
            "steps": steps,
            "planned_steps": planned_steps(trainer),
            "stop_reason": reason,
            "steps_all_phases": self.steps_before + steps,
            "rows": self.throughput.rows,
            "tokens": self.throughput.tokens,
            "truncated_rows": int((train.encoded.truncated_N > 0).sum()),
            "summaries": train.summaries and asdict(train.summaries),
            "minutes": self.throughput.seconds / 60,
            "peak_memory_gb": peak_memory_gb(device),
            "validation_rows": 0 if outputs is None else len(outputs.rows_N),
            "best_step": self._best.step,
            "adapter": str(self.folder.adapter),
            "init_from": self._initial_adapter(),
            "settings": self._settings,
            "environment": environment(device),
        }

    def _log(self, trainer: pl.Trainer, report: EvalReport, values: Mapping[str, float]) -> None:
        """Log the figures, and values that are not logged yet, at the last step."""
        step = self.steps_before + trainer.global_step - 1  # Lightning counts steps from 0
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in values.items()}, step)
        figures = {f"val/{name}": figure for name, figure in report.figures.items()}
        log_figures(trainer.loggers, figures, step)
        for logger in trainer.loggers:
            logger.save()

    def _initial_adapter(self) -> dict[str, str] | None:
        """Return which adapter the phase starts from."""
        if self._init_from is None:
            return None
        return {
            "folder": str(self._init_from),
            "sha256": sha256_file(self._init_from / WEIGHTS),
        }

    def _print_finished(self) -> None:
        """Say that nothing is done, and how the finished phase differs from what was asked for.

        Raises:
            ValueError: The adapter that the phase started from has been replaced since.
        """
        summary = read_versioned_json(self.folder.summary, "the summary of a phase")
        if self._init_from is not None and summary["init_from"] != self._initial_adapter():
            raise ValueError(
                f"{self.folder.path} was trained from another adapter than {self._init_from} has "
                "now. Train it again with --fresh, or set model.init_from to the adapter that it "
                "was trained from"
            )
        print(
            f"{self.folder.path} is finished ({summary['steps']} steps, "
            f"{summary['stop_reason']}); nothing to do. --fresh trains it again, --run.dir "
            "trains in another folder"
        )
        differences = setting_differences(summary["settings"], self._settings)
        if differences:
            print(f"warning: it was trained with other settings: {differences}")

    def _print_stopped(
        self,
        trainer: pl.Trainer,
        datamodule: VerdictDataModule,
        reason: StopReason,
        step: int,
    ) -> None:
        if not trainer.is_global_zero:
            return
        trainer.datamodule = datamodule  # the trainer was torn down
        newest = latest_valid(self.folder.checkpoints)
        start = f"resumes from {newest}" if newest else "starts from the beginning"
        names = {
            "time": "trainer.max_time is over",
            "interrupted": "interrupted",
            "callback": "a callback stopped the training",
        }
        print(
            f"{names[reason]}: stopped after step {step} of {planned_steps(trainer)}; the same "
            f"command {start}"
        )
