"""Alternating measurements, and the files that hold the results.

A shared machine slows down and speeds up while a benchmark runs. So the sides of a comparison
alternate on the same rows, each turn gives one ratio, and the figure is the median of the ratios,
with their spread. CPU time is stored beside wall time.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.atomic import write_json
from mv_lightning.schema import DEFAULT_SEED

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parent / "work"
"""Temporary files of the benchmarks; git ignores it."""
PACKAGE = "package"
"""The side of a comparison that is mv_lightning."""

Cost = dict[str, Any]
"""`cpu_s`, `wall_s`, and other figures of a turn."""
Side = Callable[[int], Cost]
"""Does one turn, given its number from 0."""
Loop = Callable[[int, Callable[[int, Cost], None]], Any]
"""Does a number of turns, and calls back after each with its number and its cost."""


class Clock:
    """Seconds since it was created; waits for the GPU before it is read."""

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


def peak_memory() -> Cost:
    """Return the peak memory of the GPU so far in GB (10^9 bytes): `peak_gb` in tensors, and
    `reserved_gb`, which PyTorch holds for them. Both are None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {"peak_gb": None, "reserved_gb": None}
    return {
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
    }


def timed(work: Callable[[], Any]) -> tuple[Cost, Any]:
    """Call a function; return its cost in this process and its result."""
    clock = Clock()
    value = work()
    return clock.read(), value


def one_by_one(side: Side) -> Loop:
    """Return a loop that calls a side once per turn."""

    def loop(turns: int, after_turn: Callable[[int, Cost], None]) -> None:
        for turn in range(turns):
            after_turn(turn, side(turn))

    return loop


def alternate(package: Loop, others: Mapping[str, Side], turns: int) -> list[dict[str, Cost]]:
    """Measure the other sides after each turn of the package, whose loop may be a trainer's.

    Args:
        package: The loop of mv_lightning.
        others: The other sides, by name.
        turns: Turns that are counted; one more warms up.

    Returns:
        For each turn the cost of every side, by name; mv_lightning is `package`.
    """
    done: list[dict[str, Cost]] = []

    def after_turn(turn: int, cost: Cost) -> None:
        costs = {PACKAGE: cost}
        for name, side in others.items():
            costs[name] = side(turn)
        done.append(costs)
        message = ", ".join(
            f"{name} {c['cpu_s']:.2f} s CPU {c['wall_s']:.2f} s wall" for name, c in costs.items()
        )
        print(f"turn {turn or '0 (warm-up)'}: {message}", flush=True)

    package(turns + 1, after_turn)
    return done[1:]


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, quartiles and maximum."""
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return {
        name: float(v)
        for name, v in zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), strict=True)
    }


def ratios(turns: list[dict[str, Cost]], other: str, unit: str = "cpu_s") -> dict[str, float]:
    """Return the spread of another side's seconds divided by the package's.

    On the same rows this is the package's throughput divided by the other side's.

    Args:
        turns: What `alternate` returned.
        other: The other side.
        unit: `cpu_s` or `wall_s`.
    """
    return spread([turn[other][unit] / turn[PACKAGE][unit] for turn in turns])


def exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that this process ends its children before it ends."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def machine() -> dict[str, Any]:
    """Return the machine and the versions that the figures depend on."""
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


def record(name: str, folder: Path = RESULTS, **content: Any) -> None:
    """Write a result with the machine and the versions, and print its figures.

    Args:
        name: Name of the file, without its suffix.
        folder: Where to.
        content: The measurements.
    """
    import torch

    from mv_lightning.training.environment import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine(), "threads": torch.get_num_threads(), **environment(device)},
        "seed": DEFAULT_SEED,
        **content,
    }
    path = folder / f"{name}.json"
    write_json(path, result)
    for key, value in content.items():
        if isinstance(value, dict) and _all_numbers(value):
            print(f"{key}: " + ", ".join(f"{n} {v:,.3f}" for n, v in value.items()))
    print(f"written to {path}")


def _all_numbers(values: dict[str, Any]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values.values())
