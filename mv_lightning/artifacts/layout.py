"""The path of every file of a run; each name is stated here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.atomic import rename_existing

CALIBRATION_FILE = "calibration.json"
"""In an adapter's folder: the temperature and threshold that `predict` applies."""
ADAPTER_FOLDER = "adapter"
TENSORBOARD_FOLDER = "tensorboard"
PARTIAL_PREFIX = "partial_"
"""Of the stage of an evaluation that covers only some rows of its split."""
_CHECKPOINT = "step-{:07d}.ckpt"
_JOURNAL = "predictions.rank{}.part"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run: its phases, its curves and its prediction."""

    path: Path
    """`run.dir`."""

    def phase(self, number: int) -> PhaseFolder:
        """Return the folder of a phase.

        Args:
            number: From 1.
        """
        return PhaseFolder(self.path, number)

    def finished_phases(self) -> list[PhaseFolder]:
        """Return the folders of the finished phases, in order; renamed ones are left out."""
        summaries = self.path.glob("phase*/summary.json")
        folders = [phase_folder(summary.parent) for summary in summaries]
        phases = [folder for folder in folders if folder is not None]
        return sorted(phases, key=lambda folder: folder.phase)

    @property
    def untrained(self) -> RunFolder:
        """What the base without an adapter is evaluated and predicts with, laid out as a run."""
        return RunFolder(self.path / "untrained")

    @property
    def tensorboard(self) -> Path:
        """The curves of all phases."""
        return self.path / TENSORBOARD_FOLDER

    @property
    def summaries(self) -> Path:
        """The summaries of long solutions."""
        return self.path / "summaries"

    @property
    def submission(self) -> Path:
        """The contest's CSV."""
        return self.path / "submission.csv"

    @property
    def probabilities(self) -> Path:
        """The predicted probabilities and log-odds."""
        return self.path / "probabilities.csv"

    @property
    def prediction_summary(self) -> Path:
        """The settings, cost and accuracy of the prediction."""
        return self.path / "prediction.json"

    @property
    def report(self) -> Path:
        """The report page, which `report` writes."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """Figures about the whole run."""
        return self.path / "plots"

    @property
    def prediction_lock(self) -> Path:
        """The lock of the process that predicts."""
        return self.path / ".predict.lock"

    def journal(self, rank: int) -> Path:
        """Return the journal of an unfinished prediction.

        Args:
            rank: The process that writes it.
        """
        return self.path / _JOURNAL.format(rank)

    def journals(self) -> list[Path]:
        """Return the existing journals, of all processes."""
        return sorted(self.path.glob(_JOURNAL.format("*")))


@dataclass(frozen=True)
class PhaseFolder:
    """The files of one phase."""

    run: Path
    """The run's folder (`run.dir`)."""
    phase: int
    """From 1."""

    @property
    def path(self) -> Path:
        """All files of the phase except its curves."""
        return self.run / f"phase{self.phase}"

    @property
    def adapter(self) -> Path:
        """The PEFT folder of the finished phase."""
        return self.path / ADAPTER_FOLDER

    @property
    def best(self) -> Path:
        """The PEFT folder of the adapter with the lowest validation loss so far."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints from which the phase can resume."""
        return self.path / "checkpoints"

    @property
    def tokens(self) -> Path:
        """The tokenised rows."""
        return self.path / "tokens"

    @property
    def config(self) -> Path:
        """All settings of the phase."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """The rows of every split."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """Metrics by stage (`val`, `test`)."""
        return self.path / "metrics.json"

    @property
    def plots(self) -> Path:
        """Figures of the evaluations."""
        return self.path / "plots"

    @property
    def lock(self) -> Path:
        """The lock of the process that writes here."""
        return self.run / f".{self.path.name}.lock"

    @property
    def summary(self) -> Path:
        """Written last: its presence means that the phase is finished."""
        return self.path / "summary.json"

    @property
    def tensorboard(self) -> Path:
        """The phase's curves."""
        return RunFolder(self.run).tensorboard / self.path.name

    @property
    def trackers(self) -> Path:
        """The runs of the loggers that number them."""
        return self.path / "trackers.json"

    def evaluated_rows(self, stage: str) -> Path:
        """Return the CSV of the log-odds of every evaluated row.

        Args:
            stage: `val` or `test`, or the same with `PARTIAL_PREFIX`.
        """
        return self.path / f"{stage}.csv"

    def checkpoint(self, step: int) -> Path:
        """Return the checkpoint of an optimizer step.

        Args:
            step: Optimizer steps done.
        """
        return self.checkpoints / _CHECKPOINT.format(step)

    def rename_existing(self) -> None:
        """Rename the folders that an earlier run of the phase left."""
        for folder in (self.path, self.tensorboard):
            if folder.exists():
                print(f"{folder} was renamed to {rename_existing(folder)}")


@dataclass(frozen=True)
class ExperimentFolder:
    """The files of an experiment, beside the folders of its runs."""

    path: Path
    """Its folder."""

    @property
    def tokens(self) -> Path:
        """The tokenised rows of all runs."""
        return self.path / "tokens"

    @property
    def summaries(self) -> Path:
        """The summaries of long solutions, of all runs."""
        return self.path / "summaries"

    @property
    def lock(self) -> Path:
        """The lock of the process that runs the experiment."""
        return self.path / ".lock"

    @property
    def results(self) -> Path:
        """All results."""
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        """A line for each cell."""
        return self.path / "results.csv"

    def plot(self, name: str) -> Path:
        """Return the file of a figure.

        Args:
            name: What it shows.
        """
        return self.path / f"{name}.png"


@dataclass(frozen=True)
class StudyFolder:
    """The files of a search of settings, `tune`."""

    path: Path
    """Its folder."""

    @property
    def storage(self) -> Path:
        """Optuna's SQLite file."""
        return self.path / "study.db"

    @property
    def lock(self) -> Path:
        """The lock of the process that opens or begins a trial."""
        return self.path / ".study.lock"

    @property
    def best(self) -> Path:
        """The best settings, as a configuration file of `fit`."""
        return self.path / "best.yaml"

    @property
    def table(self) -> Path:
        """All trials."""
        return self.path / "trials.csv"

    @property
    def summary(self) -> Path:
        """The best trial and the first one, on the validation rows and the held-out test set."""
        return self.path / "tune.json"

    def plot(self, name: str) -> Path:
        """Return the file of a figure.

        Args:
            name: What it shows.
        """
        return self.path / f"{name}.png"

    def trial(self, number: int) -> RunFolder:
        """Return the run of a trial.

        Args:
            number: Of the trial.
        """
        return RunFolder(self.path / "trials" / f"{number:04d}")

    def trial_lock(self, number: int) -> Path:
        """Return the lock of the process that has a trial.

        Args:
            number: Of the trial.
        """
        return self.trial(number).path / ".trial.lock"

    def trial_record(self, number: int) -> Path:
        """Return the file of a trial's validations.

        Args:
            number: Of the trial.
        """
        return self.trial(number).path / "validations.json"

    def trial_log(self, number: int) -> Path:
        """Return the file of a trial's output.

        Args:
            number: Of the trial.
        """
        return self.trial(number).path / "log.txt"


def checkpoint_step(path: Path) -> int:
    """Return the optimizer step of a checkpoint's file name."""
    return int(path.stem.removeprefix("step-"))


def phase_folder(path: Path) -> PhaseFolder | None:
    """Return the phase of a path of the form `RUN/phaseN`; None for any other path."""
    match = re.fullmatch(r"phase(\d+)", path.name)
    return PhaseFolder(path.parent, int(match[1])) if match else None
