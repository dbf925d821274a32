"""Sides measured by turns, and what a result holds.

A shared machine slows down and speeds up while a benchmark runs. So the sides take turns on the same rows, each turn
makes one ratio, and the figure is the median of the ratios, with their spread. CPU time stands beside wall time.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.atomic import write_json

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parent / "work"
"""What can be made again; git ignores it."""
SEED = 3407

Cost = dict[str, Any]
"""`cpu_s`, `wall_s`, and what else a side says of its turn."""
Side = Callable[[int], Cost]
"""Takes a turn, given its number from 0."""
Loop = Callable[[int, Callable[[int, Cost], None]], Any]
"""Takes a number of turns by itself, and calls back after each with its number and its cost."""


class Clock:
    """Runs from when it is made; waits for the GPU before it is read."""

    def __init__(self) -> None:
        """Start."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return the seconds since the start."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {
            "cpu_s": time.process_time() - self._cpu,
            "wall_s": time.perf_counter() - self._wall,
        }


def timed(work: Callable[[], Any]) -> tuple[Cost, Any]:
    """Return what a piece of work cost this process, and what it returned."""
    clock = Clock()
    value = work()
    return clock.read(), value


def one_by_one(side: Side) -> Loop:
    """Return the plain loop of a side that needs none of its own."""

    def loop(turns: int, between: Callable[[int, Cost], None]) -> None:
        for turn in range(turns):
            between(turn, side(turn))

    return loop


def alternate(ours: Loop, others: Mapping[str, Side], turns: int) -> list[dict[str, Cost]]:
    """Let the other sides have their turn after each of ours, whose loop may be a trainer's.

    Args:
        ours: Our loop.
        others: The other sides, by name.
        turns: Turns that count; one before them warms up.

    Returns:
        For each turn the cost of every side, ours under `ours`.
    """
    done: list[dict[str, Cost]] = []

    def between(turn: int, cost: Cost) -> None:
        done.append({"ours": cost, **{name: side(turn) for name, side in others.items()}})
        told = ", ".join(
            f"{name} {c['cpu_s']:.2f} s CPU {c['wall_s']:.2f} s wall"
            for name, c in done[-1].items()
        )
        print(f"turn {turn}{'' if turn else ', a warm-up'}: {told}", flush=True)

    ours(turns + 1, between)
    return done[1:]


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, quartiles and maximum."""
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return {
        name: float(v)
        for name, v in zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), strict=True)
    }


def ratios(turns: list[dict[str, Cost]], other: str, unit: str = "cpu_s") -> dict[str, float]:
    """Return the spread of another side's seconds divided by ours: our rows a second divided by theirs.

    Args:
        turns: What `alternate` returned.
        other: The other side.
        unit: `cpu_s` or `wall_s`.
    """
    return spread([turn[other][unit] / turn["ours"][unit] for turn in turns])


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(models)) or platform.processor(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "pyarrow", "datasets")},
    }


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
        if (
            isinstance(value, dict)
            and value
            and all(isinstance(v, int | float) for v in value.values())
        ):
            print(f"{key}: " + ", ".join(f"{n} {v:,.3f}" for n, v in value.items()))
    print(f"written to {path}")
