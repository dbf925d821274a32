"""Two sides measured by turns, and what a result holds.

A shared machine slows down and speeds up while a benchmark runs. So the sides take turns, each turn of both makes one
ratio, and the figure is the median of the ratios, with their spread. CPU time stands beside wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.splits import machine
from mv_lightning.atomic import write_json

RESULTS = Path(__file__).parent / "results"
SEED = 3407

Cost = dict[str, Any]
"""`cpu_s`, `wall_s`, and what else a side says of its turn."""


def timed(work: Callable[[], Any]) -> tuple[Cost, Any]:
    """Return what a piece of work cost this process, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}, value


def alternate_with(
    run: Callable[[int, Callable[[int, Cost], None]], None], theirs: Callable[[int], Cost], turns: int
) -> list[dict[str, Cost]]:
    """Let theirs have a turn after each turn of a loop that is not ours to write, such as a trainer's.

    Args:
        run: The loop: gets the number of turns and what to call after each, with its number from 0 and its cost.
        theirs: The same turn of theirs.
        turns: Turns that count; one before them warms up.
    """
    pairs = []

    def between(turn: int, ours: Cost) -> None:
        pair = {"ours": ours, "theirs": theirs(turn)}
        told = ", ".join(f"{side} {cost['cpu_s']:.2f} s CPU {cost['wall_s']:.2f} s wall" for side, cost in pair.items())
        print(f"turn {turn}{'' if turn else ', a warm-up'}: {told}", flush=True)
        pairs.append(pair)

    run(turns + 1, between)
    return pairs[1:]


def alternate(ours: Callable[[int], Cost], theirs: Callable[[int], Cost], turns: int) -> list[dict[str, Cost]]:
    """Let the sides take turns.

    Args:
        ours: One turn of ours; gets its number, from 0, the warm-up's included.
        theirs: The same turn of theirs.
        turns: Turns that count; one before them warms up.
    """

    def run(steps: int, between: Callable[[int, Cost], None]) -> None:
        for turn in range(steps):
            between(turn, ours(turn))

    return alternate_with(run, theirs, turns)


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, quartiles and maximum."""
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return {name: float(v) for name, v in zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), strict=True)}


def ratios(pairs: list[dict[str, Cost]]) -> dict[str, dict[str, float]]:
    """Return the spread of theirs / ours over the pairs, in CPU and in wall seconds; both sides do the same rows."""
    return {unit: spread([pair["theirs"][unit] / pair["ours"][unit] for pair in pairs]) for unit in ("cpu_s", "wall_s")}


def record(name: str, **content: Any) -> None:
    """Write a result with what it depends on, and say its figures.

    Args:
        name: Of the file under `benchmarks/results`, without its ending.
        content: What was measured.
    """
    import torch

    from mv_lightning.training.phase import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine(), "threads": torch.get_num_threads(), **environment(device)},
        "seed": SEED,
        **content,
    }
    path = RESULTS / f"{name}.json"
    write_json(path, result)
    for key, value in content.items():
        if isinstance(value, dict) and value and all(isinstance(v, int | float) for v in value.values()):
            print(f"{key}: " + ", ".join(f"{n} {v:,.3f}" for n, v in value.items()))
    print(f"written to {path}")
