"""TRL's SFTTrainer on the training rows of a run: same base, rows, order, steps and learning rate.

Everything else is as in the report: 2 x 4 padded rows, loss on all tokens, gradient checkpointing.
TRL runs in its own environment. If it is interrupted it continues from its last checkpoint, not
exactly, but with the optimizer's states. Its adapter predicts the held-out rows through the
package, so that only the training differs.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import trange

from benchmarks.baselines import REPORT, BaselineTrainer, write_texts
from benchmarks.proof.definitions import Run
from benchmarks.proof.scoring import score_rows
from benchmarks.proof.training import ProofFolder
from mv_lightning.artifacts.phase_results import read_summary
from mv_lightning.artifacts.solutions import Solutions
from mv_lightning.atomic import atomic_file, write_json
from mv_lightning.data.batching import row_order
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import read_manifest
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model import adapter_files
from mv_lightning.model.location import locate
from mv_lightning.model.optim import OptimSettings
from mv_lightning.verifier import Verifier


class TrlFolder:
    """The files of TRL's training."""

    def __init__(self, root: Path, name: str) -> None:
        """Name the files; none is created.

        Args:
            root: Folder of all runs.
            name: A key of `TRL_RUNS`.
        """
        self.path = root / name
        self.texts = self.path / "texts.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.adapter = self.path / "adapter"
        self.figures = self.path / "figures.json"

    def log_odds(self, set_name: str) -> Path:
        """Return the file of a set's predictions.

        Args:
            set_name: A key of `ROW_SETS`.
        """
        return self.path / f"{set_name}.npy"


def train_trl(run: Run, finished: ProofFolder, folder: TrlFolder) -> dict[str, Any]:
    """Train with TRL, unless that is finished.

    Args:
        run: The run that TRL is compared with.
        finished: Its files; it has been trained.
        folder: TRL's files.

    Returns:
        Rows, steps, CPU seconds of the steps alone, mean loss of the last 20 steps, and versions.

    Raises:
        ValueError: The run has a pair loss, which TRL's trainer does not know.
        RuntimeError: TRL cannot be installed, or it stopped.
    """
    if run.pair_weight:
        raise ValueError(f"expected a run without a pair loss, got {run.pair_weight=}")
    if not folder.figures.is_file():
        summary = read_summary(finished.phase)
        write_training_texts(run, finished, folder.texts)
        trainer = BaselineTrainer(
            folder.path.name,
            model=locate(str(run.base_name())).source,
            random=False,
            unsloth=False,
            texts=str(folder.texts),
            split_text=False,
            rank=run.r,
            steps=summary["steps"],
            optim={"learning_rate": run.lr, "warmup_steps": OptimSettings().warmup_steps},
            config=REPORT,
            output=str(folder.checkpoints),
            save=str(folder.adapter),
        )
        done, planned, name = len(trainer.steps), summary["steps"], folder.path.name
        try:
            for _ in trange(done, planned, initial=done, total=planned, desc=name, unit="step"):
                trainer.step()
            trainer.finish()
        finally:
            trainer.stop()
        figures = {
            "rows": summary["rows"],
            "steps": summary["steps"],
            "cpu_seconds": sum(step["cpu_s"] for step in trainer.steps),
            "last_loss": float(np.mean([step["loss"] for step in trainer.steps[-20:]])),
            "versions": trainer.versions,
        }
        write_json(folder.figures, figures)
    stored: dict[str, Any] = json.loads(folder.figures.read_text(encoding="utf-8"))
    return stored


def write_training_texts(run: Run, finished: ProofFolder, path: Path) -> None:
    """Write the run's training rows in the order of its training, as TRL reads them.

    Args:
        run: The run.
        finished: Its files.
        path: JSON lines.
    """
    source = load_source(str(finished.training_rows))
    assert source.labels_N is not None
    rows_N = read_manifest(finished.phase.manifest)[1].train[0]
    order_N = row_order(source.labels_N[rows_N], run.stratify, run.seed, phase=1, epoch=0)
    prompt = load_prompt(run.prompt)
    write_texts(path, prompt, source.table, source.labels_N, rows_N[order_N])


def score_trl(
    finished: ProofFolder, folder: TrlFolder, set_name: str, scored_rows: Path
) -> dict[str, Any]:
    """Predict the held-out rows of a set with TRL's adapter and score them, not calibrated.

    Args:
        finished: The run that TRL is compared with; the base and the prompt are its own.
        folder: TRL's files.
        set_name: A key of `ROW_SETS`.
        scored_rows: The held-out rows.

    Returns:
        See `scoring.score_rows`.
    """
    source, path = load_source(str(scored_rows)), folder.log_odds(set_name)
    if not path.is_file():
        verifier = Verifier.load(finished.phase.path, device="cpu")
        adapter_files.load(verifier.model, folder.adapter)
        verifier = dataclasses.replace(verifier, calibration=Calibration())
        log_odds_N = verifier.log_odds(source.table)
        with atomic_file(path) as tmp_path, tmp_path.open("wb") as file:
            np.save(file, log_odds_N)
    log_odds_N = np.load(path)
    return score_rows(Solutions.of(source, np.arange(len(log_odds_N)), log_odds_N))
