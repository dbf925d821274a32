"""Kill runs in the middle of their work, start them again, and compare what they leave with an undisturbed run.

    python -m benchmarks.fault_injection train [--kills 50]
    python -m benchmarks.fault_injection predict [--kills 20] [--rows 600]

Kills are SIGKILL: the program gets no chance to save anything. The model is the tests' tiny one, which is quantised
and adapted like any other; the processes are real ones, forked from a server that has the libraries loaded, so that a
start costs little. Exits with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from mv_lightning.artifacts.layout import PhaseFolder, RunFolder, checkpoint_step
from mv_lightning.atomic import write_json
from mv_lightning.experiments.resume_check import compare_phases
from mv_lightning.model.adapter_files import WEIGHTS
from mv_lightning.testing import (
    batches_done,
    predict_with_kills,
    run_forked,
    save_tiny_base,
    tiny_options,
)
from mv_lightning.training.checkpoint import checkpoints

CONFIGS = Path(__file__).parents[1] / "configs"


def faults_predict(kills: int, rows: int, seed: int = 3407) -> dict[str, Any]:
    """Compare a prediction that was killed over and over with a straight one.

    Args:
        kills: How often.
        rows: Practice rows to predict.
        seed: Of the moments.

    Returns:
        What was done and seen; `identical` says whether both CSV files are the same to the byte.
    """
    with tempfile.TemporaryDirectory() as scratch:
        base, straight, killed = (Path(scratch) / name for name in ("base", "straight", "killed"))
        save_tiny_base(base)
        killed.mkdir()
        run_forked(
            ["fit", "--config", str(CONFIGS / "phase1.yaml"), *tiny_options(base, straight)],
            straight / "log.txt",
        )

        def predict(folder: Path) -> list[str]:
            return [
                *(
                    "predict",
                    "--config",
                    str(CONFIGS / "predict.yaml"),
                    *tiny_options(base, folder),
                ),
                *(
                    "--model.init_from",
                    str(straight / "phase1" / "adapter"),
                    "--data.eval_tokens",
                    "1024",
                ),
                *(
                    "--data.predict_source",
                    f"synthetic:{rows}",
                    "--model.base.gradient_checkpointing",
                    "false",
                ),
            ]

        most = 0

        def watch() -> bool:
            nonlocal most
            most = max(most, batches_done(straight))
            return False

        run_forked(predict(straight), straight / "log.txt", watch)
        marks = sorted(random.Random(seed).sample(range(1, most), kills))
        start = time.perf_counter()
        seen = predict_with_kills(predict(killed), killed, marks)
        return {
            "rows": rows,
            "batches": most,
            "kills": len(seen),
            "torn_lines": sum(kill["torn"] for kill in seen),
            "killed_after_batches": [kill["batches"] for kill in seen],
            "identical": {
                name: (straight / name).read_bytes() == (killed / name).read_bytes()
                for name in ("submission.csv", "probabilities.csv")
            },
            "parts_left": len(list(RunFolder(killed).journals())),
            "seconds": round(time.perf_counter() - start, 1),
        }


@dataclass(frozen=True)
class Moment:
    """When to kill a fit."""

    checkpoints: int
    """After so many new checkpoints..."""
    seconds: float
    """... and so long after that."""
    writing: bool
    """Or, from then on, as soon as a checkpoint is half written."""


def fit_with_kills(
    words: list[str], folder: PhaseFolder, moments: list[Moment]
) -> list[dict[str, Any]]:
    """Fit a phase, killed at the next moment each time, until it is finished.

    Args:
        words: A fit command of that phase.
        folder: Where it lives.
        moments: One for each kill.

    Returns:
        For each kill that met a living process: the newest checkpoint's `step` then, and `writing`, whether another
        was half written.
    """
    log = folder.path.with_suffix(".txt")
    kills: list[dict[str, Any]] = []
    for moment in moments:
        if not run_forked(words, log, _due(moment, folder, log)):
            return kills
        kills.append({"step": _newest_step(folder), "writing": bool(_drafts(folder))})
    run_forked(words, log)
    return kills


def _due(moment: Moment, folder: PhaseFolder, log: Path) -> Callable[[], bool]:
    """Whether the moment has come; asked from before the process starts."""
    before, starts = _newest_step(folder), _starts(log)
    ready: list[float] = []

    def due() -> bool:
        new = sum(checkpoint_step(path) > before for path in checkpoints(folder.checkpoints))
        if not ready and _starts(log) > starts and new >= moment.checkpoints:
            ready.append(time.monotonic())
        if moment.writing:
            return bool(ready) and bool(_drafts(folder))
        return bool(ready) and time.monotonic() - ready[0] >= moment.seconds

    return due


def _newest_step(folder: PhaseFolder) -> int:
    newest = next(iter(checkpoints(folder.checkpoints)), None)
    return checkpoint_step(newest) if newest else 0


def _drafts(folder: PhaseFolder) -> list[Path]:
    return list(folder.checkpoints.glob(".*.tmp"))


def _starts(log: Path) -> int:
    return log.read_bytes().count(b"checkpoints: about") if log.exists() else 0


def faults_train(kills: int, seed: int = 3407) -> dict[str, Any]:
    """Compare three chained phases that were killed over and over with a straight run of them.

    Args:
        kills: How often, in all.
        seed: Of the moments.

    Returns:
        What was done and seen; `identical` says for each phase whether adapter, optimizer, schedule, random
        generators and logged losses are the same to the bit.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        base, straight, killed = (Path(scratch) / name for name in ("base", "straight", "killed"))
        save_tiny_base(base)
        start = time.perf_counter()
        seen: list[list[dict[str, Any]]] = []
        identical: dict[str, Any] = {}
        for phase in (1, 2, 3):
            folders = [PhaseFolder(folder, phase) for folder in (straight, killed)]
            commands = [
                [
                    *(
                        "fit",
                        "--config",
                        str(CONFIGS / f"phase{phase}.yaml"),
                        *tiny_options(base, folder.run),
                    ),
                    *(
                        "--data.source",
                        "synthetic:800",
                        "--data.splits.rows",
                        "240",
                        "--trainer.max_steps",
                        "40",
                    ),
                    *(
                        "--run.save_every",
                        "2",
                        "--run.eval_every",
                        "5",
                        "--model.lora.dropout",
                        "0.1",
                    ),
                ]
                for folder in folders
            ]
            for folder in folders:
                folder.run.mkdir(exist_ok=True)
            run_forked(commands[0], folders[0].path.with_suffix(".txt"))
            share = kills // 3 + (phase <= kills % 3)
            moments = [
                Moment(rng.randrange(2), rng.uniform(0, 1), writing=i % 4 == 0)
                for i in range(share)
            ]
            seen.append(fit_with_kills(commands[1], folders[1], moments))
            found = compare_phases(*folders)
            adapters = [(folder.adapter / WEIGHTS).read_bytes() for folder in folders]
            identical[f"phase {phase}"] = adapters[0] == adapters[1] and not any(found.values())
        return {
            "kills": sum(map(len, seen)),
            "kills_while_writing": sum(kill["writing"] for phase in seen for kill in phase),
            "steps_of_a_phase": 40,
            "newest_checkpoint_at_each_kill": [[kill["step"] for kill in phase] for phase in seen],
            "identical": identical,
            "seconds": round(time.perf_counter() - start, 1),
        }


def main() -> None:
    """Run one kind of fault, print its table and write its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["train", "predict"])
    parser.add_argument("--kills", type=int, help="default: 50 in training, 20 in prediction")
    parser.add_argument("--rows", type=int, default=600, help="rows to predict")
    options = parser.parse_args()
    if options.what == "train":
        results = faults_train(options.kills or 50)
    else:
        results = faults_predict(options.kills or 20, options.rows)
    for name, value in results.items():
        print(f"{name:22} {value}")
    write_json(RESULTS / f"fault_injection_{options.what}.json", results)
    if not all(results["identical"].values()) or results.get("parts_left"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
