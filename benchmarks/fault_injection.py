"""Kill runs at random moments, restart them, and compare them with uninterrupted runs.

    python -m benchmarks.fault_injection train [--kills 50]
    python -m benchmarks.fault_injection predict [--kills 20] [--rows 600]

Kills are SIGKILL: the program gets no chance to save anything. The model is the tiny one of the
tests, which is quantised and adapted like any other. The processes are real ones, forked from a
server that has the libraries loaded, so that a start costs little. Exits with status 1 if anything
differs, or if no process was killed.
"""

from __future__ import annotations

import argparse
import random
import shlex
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
from mv_lightning.schema import DEFAULT_SEED
from mv_lightning.testing import (
    batches_done,
    predict_with_kills,
    run_forked,
    save_tiny_base,
    tiny_options,
)
from mv_lightning.training.checkpoint_files import checkpoints

CONFIGS = Path(__file__).parents[1] / "configs"
STEPS = 40
"""Optimizer steps of a phase."""


def kill_predictions(kills: int, rows: int, seed: int = DEFAULT_SEED) -> dict[str, Any]:
    """Compare a prediction that was killed repeatedly with an uninterrupted one.

    Args:
        kills: Number of kills.
        rows: Synthetic rows to predict.
        seed: Seed of the moments of the kills.

    Returns:
        Counts of the kills; `identical` says whether both CSV files are equal byte for byte.
    """
    with tempfile.TemporaryDirectory() as scratch:
        base, straight, killed = (Path(scratch) / name for name in ("base", "straight", "killed"))
        save_tiny_base(base)
        killed.mkdir()
        log = straight / "log.txt"
        fit = ["fit", "--config", str(CONFIGS / "phase1.yaml"), *tiny_options(base, straight)]
        run_forked(fit, log)
        adapter = straight / "phase1" / "adapter"
        batches = _predict_and_count(_predict_args(base, adapter, straight, rows), straight, log)
        marks = sorted(random.Random(seed).sample(range(1, batches), kills))
        start = time.perf_counter()
        seen = predict_with_kills(_predict_args(base, adapter, killed, rows), killed, marks)
        seconds = round(time.perf_counter() - start, 1)
        identical = {}
        for name in ("submission.csv", "probabilities.csv"):
            identical[name] = (straight / name).read_bytes() == (killed / name).read_bytes()
        return {
            "rows": rows,
            "batches": batches,
            "kills": len(seen),
            "torn_lines": sum(kill["torn"] for kill in seen),
            "killed_after_batches": [kill["batches"] for kill in seen],
            "identical": identical,
            "parts_left": len(RunFolder(killed).journals()),
            "seconds": seconds,
        }


def _predict_args(base: Path, adapter: Path, run: Path, rows: int) -> list[str]:
    return [
        *("predict", "--config", str(CONFIGS / "predict.yaml"), *tiny_options(base, run)),
        *("--model.init_from", str(adapter), "--predict.source", f"synthetic:{rows}"),
        *("--data.eval_tokens", "1024", "--model.base.gradient_checkpointing", "false"),
    ]


def _predict_and_count(args: list[str], run: Path, log: Path) -> int:
    """Predict without a kill; return the largest number of batches seen in the journals."""
    largest = 0

    def watch() -> bool:
        nonlocal largest
        largest = max(largest, batches_done(run))
        return False

    run_forked(args, log, watch)
    return largest


@dataclass(frozen=True)
class Moment:
    """When to kill a fit."""

    checkpoints: int
    """After this number of new checkpoints ..."""
    seconds: float
    """... and this time after them."""
    writing: bool
    """Instead of waiting that time, wait until a checkpoint is half written."""


def fit_with_kills(
    args: list[str], folder: PhaseFolder, moments: list[Moment]
) -> list[dict[str, Any]]:
    """Fit a phase, killed at the next moment each time, until it is finished.

    Args:
        args: A fit command of that phase.
        folder: The phase.
        moments: One for each kill.

    Returns:
        For each process that was killed: `step` of the newest checkpoint then, and `writing`,
        whether another one was half written.
    """
    log = _log(folder)
    kills: list[dict[str, Any]] = []
    for moment in moments:
        if not run_forked(args, log, _due(moment, folder)):
            return kills
        kills.append({"step": _newest_step(folder), "writing": bool(_half_written(folder))})
    run_forked(args, log)
    return kills


def _due(moment: Moment, folder: PhaseFolder) -> Callable[[], bool]:
    """Return a condition that holds at the moment; called before the process starts."""
    before, starts = _newest_step(folder), _starts(folder)
    ready: list[float] = []

    def due() -> bool:
        new = sum(checkpoint_step(path) > before for path in checkpoints(folder.checkpoints))
        if not ready and _starts(folder) > starts and new >= moment.checkpoints:
            ready.append(time.monotonic())
        if moment.writing:
            return bool(ready) and bool(_half_written(folder))
        return bool(ready) and time.monotonic() - ready[0] >= moment.seconds

    return due


def _newest_step(folder: PhaseFolder) -> int:
    newest = next(iter(checkpoints(folder.checkpoints)), None)
    return checkpoint_step(newest) if newest else 0


def _half_written(folder: PhaseFolder) -> list[Path]:
    return list(folder.checkpoints.glob(".*.tmp"))


def _starts(folder: PhaseFolder) -> int:
    """Return how many processes have begun to train the phase: each writes its own event file."""
    return len(list(folder.tensorboard.glob("events.*")))


def _log(folder: PhaseFolder) -> Path:
    return folder.path.with_suffix(".txt")


def kill_trainings(kills: int, seed: int = DEFAULT_SEED) -> dict[str, Any]:
    """Compare three chained phases that were killed repeatedly with an uninterrupted run of them.

    Args:
        kills: Number of kills in all.
        seed: Seed of the moments of the kills.

    Returns:
        Counts of the kills; `identical` says for each phase whether adapter, optimizer, schedule,
        random generators and logged losses are equal bit for bit.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        base, straight, killed = (Path(scratch) / name for name in ("base", "straight", "killed"))
        save_tiny_base(base)
        for run in (straight, killed):
            run.mkdir()
        start = time.perf_counter()
        seen: list[list[dict[str, Any]]] = []
        identical: dict[str, bool] = {}
        for number in (1, 2, 3):
            phase, killed_phase = PhaseFolder(straight, number), PhaseFolder(killed, number)
            run_forked(_fit_args(base, phase), _log(phase))
            moments = _moments(kills // 3 + (number <= kills % 3), rng)
            seen.append(fit_with_kills(_fit_args(base, killed_phase), killed_phase, moments))
            identical[f"phase {number}"] = _identical(phase, killed_phase)
        seconds = round(time.perf_counter() - start, 1)
    all_kills = [kill for phase_kills in seen for kill in phase_kills]
    steps = []
    for phase_kills in seen:
        steps.append([kill["step"] for kill in phase_kills])
    return {
        "kills": len(all_kills),
        "kills_while_writing": sum(kill["writing"] for kill in all_kills),
        "steps_of_a_phase": STEPS,
        "newest_checkpoint_at_each_kill": steps,
        "identical": identical,
        "seconds": seconds,
    }


def _fit_args(base: Path, folder: PhaseFolder) -> list[str]:
    config = CONFIGS / f"phase{folder.phase}.yaml"
    more = (
        f"--data.source synthetic:800 --data.splits.rows 240 --trainer.max_steps {STEPS} "
        "--run.save_every 2 --run.eval_every 5 --model.lora.dropout 0.1"
    )
    return ["fit", "--config", str(config), *tiny_options(base, folder.run), *shlex.split(more)]


def _moments(kills: int, rng: random.Random) -> list[Moment]:
    return [
        Moment(rng.randrange(2), rng.uniform(0, 1), writing=number % 4 == 0)
        for number in range(kills)
    ]


def _identical(one: PhaseFolder, other: PhaseFolder) -> bool:
    weights = [(folder.adapter / WEIGHTS).read_bytes() for folder in (one, other)]
    return weights[0] == weights[1] and not any(compare_phases(one, other).values())


def main() -> None:
    """Kill trainings or predictions, print the counts and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["train", "predict"])
    parser.add_argument("--kills", type=int, help="default: 50 for train, 20 for predict")
    parser.add_argument("--rows", type=int, default=600, help="rows to predict")
    options = parser.parse_args()
    if options.command == "train":
        results = kill_trainings(options.kills or 50)
    else:
        results = kill_predictions(options.kills or 20, options.rows)
    for name, value in results.items():
        print(f"{name:30} {value}")
    write_json(RESULTS / f"fault_injection_{options.command}.json", results)
    if not all(results["identical"].values()) or results.get("parts_left") or not results["kills"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
