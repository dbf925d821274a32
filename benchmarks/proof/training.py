"""Train a run and predict the held-out rows, by the commands that a user would type.

Every step resumes where it was interrupted, and a finished one is skipped. Each process has one
thread, unless the environment variable OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proof.definitions import VALIDATION_ROWS, Run
from benchmarks.proof.rows import write_scored_rows, write_training_rows, write_validated_rows
from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.atomic import write_json
from mv_lightning.data.sources import load_source

VALIDATED = "validated"
"""Name of the prediction of `ProofFolder.validated_rows`."""
_RECORD_SECONDS = 30


class ProofFolder:
    """The files of one run."""

    def __init__(self, root: Path, name: str) -> None:
        """Name the files; none is created.

        Args:
            root: Folder of all runs.
            name: A key of `RUNS`.
        """
        self.path = root / name
        self.training_rows = self.path / "training_rows.jsonl"
        self.validated_rows = self.path / "validated_rows.jsonl"
        """What the continued runs were validated on, see `Run.keep_validation`."""
        self.phase = PhaseFolder(self.path, 1)
        self.cpu_seconds = self.path / "cpu_seconds.json"
        self._root = root

    def scored_rows(self, name: str) -> Path:
        """Return the held-out rows of a set, which all runs share.

        Args:
            name: A key of `ROW_SETS`.
        """
        return self._root / "held_out" / f"{name}.jsonl"

    def prediction(self, run: Run, name: str) -> RunFolder:
        """Return the folder of a set's predictions.

        Args:
            run: The run.
            name: A key of `ROW_SETS`, or `VALIDATED`.
        """
        folder = RunFolder(self.predict_dir(name))
        return folder.untrained if run.untrained else folder

    def predict_dir(self, name: str) -> Path:
        """Return `run.dir` of the command that predicts a set.

        Args:
            name: A key of `ROW_SETS`, or `VALIDATED`.
        """
        return self.path / f"predict_{name}"


def train(run: Run, folder: ProofFolder, sets: Path, continued: Sequence[ProofFolder] = ()) -> None:
    """Train a run, unless it is finished.

    Args:
        run: The run; it has training rows.
        folder: Its files.
        sets: The folder of the sets.
        continued: The files of the runs that it continues, which are finished, the last one last.

    Raises:
        ValueError: The command failed.
    """
    if folder.phase.summary.is_file():
        return
    if not folder.training_rows.is_file():
        without = [other.training_rows for other in continued if other.path.name in run.without]
        if run.keep_validation:
            _write_validated_rows(folder, continued)
            without.append(folder.validated_rows)
        seen = [other.training_rows for other in continued] if run.new_rows else []
        write_training_rows(folder.training_rows, run.rows, sets, without, seen)
    options = _fit_options(run, folder)
    if continued:
        options["model.init_from"] = continued[-1].phase.adapter
    _command("fit", options, folder)


def average(run: Run, folder: ProofFolder, continued: Sequence[ProofFolder]) -> None:
    """Average the adapters of continued runs, unless that is finished.

    Args:
        run: The run; it is an average.
        folder: Its files.
        continued: As for `train`.

    Raises:
        ValueError: The command failed.
    """
    if folder.phase.adapter.is_dir():
        return
    if run.keep_validation:
        _write_validated_rows(folder, continued)
    members = [other.phase.adapter for other in continued if other.path.name in run.average]
    _command("average", {"out": folder.phase.adapter}, folder, members)


def _write_validated_rows(folder: ProofFolder, continued: Sequence[ProofFolder]) -> None:
    phases = [(trained.phase, trained.training_rows) for trained in continued]
    write_validated_rows(folder.validated_rows, phases)


def predict(run: Run, folder: ProofFolder, name: str, sets: Path) -> None:
    """Predict the held-out rows of a set, unless that is finished.

    Args:
        run: The run; it is finished.
        folder: Its files.
        name: A key of `ROW_SETS`.
        sets: The folder of the sets.

    Raises:
        ValueError: The command failed.
    """
    rows = folder.scored_rows(name)
    if not rows.is_file():
        write_scored_rows(rows, name, sets)
    _predict(run, folder, name, rows)


def predict_validated(run: Run, folder: ProofFolder) -> None:
    """Predict what the continued runs were validated on, unless that is finished.

    Args:
        run: The run; it is finished, and keeps the validation of those that it continues.
        folder: Its files.

    Raises:
        ValueError: The command failed.
    """
    _predict(run, folder, VALIDATED, folder.validated_rows)


def _predict(run: Run, folder: ProofFolder, name: str, rows: Path) -> None:
    if folder.prediction(run, name).prediction_summary.is_file():
        return
    options = {
        **_model_options(run),
        "model.init_from": "none" if run.untrained else folder.phase.adapter,
        "predict.source": rows,
        "run.dir": folder.predict_dir(name),
    }
    _command("predict", options, folder, stage=f"predict {name}")


def cpu_seconds(folder: ProofFolder) -> dict[str, float]:
    """Return the CPU seconds of each stage, summed over its starts.

    Args:
        folder: The run's files.
    """
    return {stage: sum(starts) for stage, starts in _recorded(folder).items()}


def _model_options(run: Run) -> dict[str, Any]:
    return {
        "model.base.name": run.base_name(),
        "model.base.gradient_checkpointing": "false",
        "model.lora.r": run.r,
        "model.lora.alpha": run.r,
        "data.prompt": run.prompt,
        "data.max_length": run.max_length,
        "data.eval_tokens": 4096,
        "trainer.accelerator": "cpu",
    }


def _fit_options(run: Run, folder: ProofFolder) -> dict[str, Any]:
    rows = _usable_rows(folder.training_rows, run.balance)
    options = {
        **_model_options(run),
        "model.optim.lr": run.lr,
        "seed_everything": run.seed,
        "data.source": folder.training_rows,
        "data.batch_size": run.batch_size // run.micro_batches,
        "data.splits.phases": 1,
        "data.splits.rows": rows,
        "data.splits.val_fraction": VALIDATION_ROWS / rows,
        "data.splits.test_rows": 0,
        "data.splits.balance": str(run.balance).lower(),
        "data.splits.group_by_question": "true",
        "data.splits.seed": run.seed,
        "trainer.accumulate_grad_batches": run.micro_batches,
        "run.dir": folder.path,
        "run.save_every": 25,
        "run.eval_every": 100_000,  # only after the last step
    }
    if run.stratify:
        options["data.stratify"] = "true"
    if run.pair_weight:
        options["model.pair_weight"] = run.pair_weight
    return options


def _usable_rows(path: Path, balance: bool) -> int:
    """Return how many rows can be divided by question into validation and training rows.

    At most one question is at the boundary; its rows on the far side cannot be used. In balanced
    splits that counts for the smaller class, and the larger one gives as many rows.
    """
    source = load_source(str(path))
    rows_Q = np.bincount(source.question_ids_N)
    largest = int(rows_Q.max())
    if balance:
        assert source.labels_N is not None
        smaller_class = int(np.bincount(source.labels_N, minlength=2).min())
        return 2 * (smaller_class - largest + 1)
    if (rows_Q == largest).all() and VALIDATION_ROWS % largest == 0:
        return len(source.table)
    return len(source.table) - largest + 1


def _command(
    command: str,
    options: Mapping[str, Any],
    folder: ProofFolder,
    values: Sequence[Path] = (),
    stage: str | None = None,
) -> None:
    """Run a command of mv_lightning as a child process and record its CPU seconds.

    The record is renewed while the child runs, so that little is lost if this process is killed.
    Where this process ends by an exception, it terminates the child.
    """
    args = [command, *map(str, values)]
    for name, value in options.items():
        args += [f"--{name}", str(value)]
    recorded = _recorded(folder)
    starts = recorded.setdefault(stage or command, [])
    starts.append(0.0)
    folder.path.mkdir(parents=True, exist_ok=True)
    before = os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", "mv_lightning", *args],
        env={"OMP_NUM_THREADS": "1", **os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        while process.poll() is None:
            try:
                process.wait(_RECORD_SECONDS)
            except subprocess.TimeoutExpired:
                starts[-1] = _running_cpu_seconds(process.pid)
                write_json(folder.cpu_seconds, recorded)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        after = os.times()
        starts[-1] = after.children_user + after.children_system
        starts[-1] -= before.children_user + before.children_system
        write_json(folder.cpu_seconds, recorded)
    if process.returncode:
        raise ValueError(f"`{shlex.join(args)}` ended with status {process.returncode}, see above")


def _running_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a running process; 0 where the system does not show them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _recorded(folder: ProofFolder) -> dict[str, list[float]]:
    if not folder.cpu_seconds.is_file():
        return {}
    recorded: dict[str, list[float]] = json.loads(folder.cpu_seconds.read_text(encoding="utf-8"))
    return recorded
