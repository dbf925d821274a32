"""What a piece of work costs, and what a result holds: figures, machine, versions, date and seed."""

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


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, quartiles and maximum."""
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return {name: float(v) for name, v in zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), strict=True)}


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
