"""Where every file of a run lies; each name is stated here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.atomic import rename_existing

CALIBRATION_FILE = "calibration.json"
"""In an adapter's folder: the temperature and threshold that `predict` applies."""
ADAPTER_FOLDER = "adapter"
TENSORBOARD_FOLDER = "tensorboard"
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
        matches = (re.fullmatch(r"phase(\d+)", summary.parent.name) for summary in summaries)
        return [
            self.phase(number) for number in sorted(int(match[1]) for match in matches if match)
        ]

    @property
    def tensorboard(self) -> Path:
        """The curves of all phases."""
        return self.path / TENSORBOARD_FOLDER

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
        """What was predicted, with what, and how well."""
        return self.path / "prediction.json"

    @property
    def report(self) -> Path:
        """The page that `report` writes."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """Figures about the whole run."""
        return self.path / "plots"

    def journal(self, rank: int) -> Path:
        """Return the journal of an unfinished prediction.

        Args:
            rank: The process that writes it.
        """
        return self.path / _JOURNAL.format(rank)

    def journals(self) -> list[Path]:
        """Return the journals of all processes that are there."""
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
        """Everything of the phase but its curves."""
        return self.run / f"phase{self.phase}"

    @property
    def adapter(self) -> Path:
        """The PEFT folder that the finished phase leaves."""
        return self.path / ADAPTER_FOLDER

    @property
    def best(self) -> Path:
        """The PEFT folder of the lowest validation loss so far."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints that the phase can be resumed from."""
        return self.path / "checkpoints"

    @property
    def tokens(self) -> Path:
        """The tokenised rows."""
        return self.path / "tokens"

    @property
    def config(self) -> Path:
        """Every setting of the run."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Which rows were drawn for which split."""
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
    def summary(self) -> Path:
        """Written last: its presence says that the phase is finished."""
        return self.path / "summary.json"

    @property
    def tensorboard(self) -> Path:
        """The phase's curves."""
        return RunFolder(self.run).tensorboard / self.path.name

    def evaluated_rows(self, stage: str) -> Path:
        """Return the file of every evaluated row's log-odds.

        Args:
            stage: `val` or `test`.
        """
        return self.path / f"{stage}.csv"

    def checkpoint(self, step: int) -> Path:
        """Return the checkpoint of an optimizer step.

        Args:
            step: Optimizer steps done.
        """
        return self.checkpoints / _CHECKPOINT.format(step)

    def rename_existing(self) -> None:
        """Give what an earlier run of the phase left another name."""
        for folder in (self.path, self.tensorboard):
            if folder.exists():
                print(f"{folder} was renamed to {rename_existing(folder)}")


def checkpoint_step(path: Path) -> int:
    """Return the optimizer step of a checkpoint's file name."""
    return int(path.stem.removeprefix("step-"))


def phase_folder(path: Path) -> PhaseFolder | None:
    """Return the phase that a path names, or None where it is not of the form `RUN/phaseN`."""
    match = re.fullmatch(r"phase(\d+)", path.name)
    return PhaseFolder(path.parent, int(match[1])) if match else None
