"""Time and memory from a file of a million rows to splits, compared with `datasets.filter`.

    python -m benchmarks.splits [--rows 1000000]

Each side runs in its own process, one after the other, so that peak memory is measured separately
(libraries included). Both read the same Parquet file. The baseline draws the same numbers of rows
per class, but detects no duplicates, does not group by question and computes no fingerprint of the
content. Writes `benchmarks/results/splits.json`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, machine
from mv_lightning.atomic import write_json
from mv_lightning.schema import DEFAULT_SEED

PHASES, PHASE_ROWS, TEST_ROWS = 3, 20_000, 1_000


class Stages:
    """Wall and CPU seconds per stage, and the peak memory of this process."""

    def __init__(self) -> None:
        """Create with no stages."""
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block under `name`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = {
            "wall_s": round(time.perf_counter() - wall, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
        }

    def report(self, **more: Any) -> dict[str, Any]:
        """Return all stages, their sum, the peak memory, and `more`."""
        total = {}
        for unit in ("wall_s", "cpu_s"):
            total[unit] = round(sum(stage[unit] for stage in self.seconds.values()), 3)
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
        return {"stages": self.seconds, "total": total, "peak_memory_mb": round(peak / 1e6), **more}


def print_report(name: str, rows: int, report: dict[str, Any]) -> None:
    """Print what `Stages.report` returned."""
    print(f"{name}: {rows:,} rows, peak memory {report['peak_memory_mb']:,} MB")
    for stage, seconds in (*report["stages"].items(), ("total", report["total"])):
        print(f"  {stage:26} {seconds['wall_s']:8.2f} s wall {seconds['cpu_s']:8.2f} s CPU")


def write_table(path: Path, rows: int, steps: int = 1) -> None:
    """Write rows like the contest's: 40 % True, every question about four times.

    Args:
        path: Parquet file.
        rows: Rows of the table.
        steps: Lines of a solution.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rng = np.random.default_rng(DEFAULT_SEED)
    schema = pa.schema(
        [
            ("question", pa.string()),
            ("answer", pa.string()),
            ("solution", pa.string()),
            ("is_correct", pa.bool_()),
        ]
    )
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, rows, 50_000):
            size = min(50_000, rows - start)
            questions = rng.integers(0, max(1, rows // 4), size)
            answers = rng.integers(0, 1_000, size)
            columns = {
                "question": [
                    f"Tom has {q} apples and eats {q % 7}. How many are left?"
                    for q in questions.tolist()
                ],
                "answer": [str(a) for a in answers.tolist()],
                "solution": [
                    "\n".join([f"{a + 7} - 7 = {a}, so the answer is {a}."] * steps)
                    for a in answers.tolist()
                ],
                "is_correct": rng.random(size) < 0.4,
            }
            file.write_table(pa.table(columns, schema=schema))


def package(path: Path) -> dict[str, Any]:
    """mv_lightning: checks, counts, groups and fingerprint, then both kinds of split."""
    stages = Stages()
    with stages.stage("import"):
        import datasets  # noqa: F401
        import pyarrow.parquet  # noqa: F401

        from mv_lightning.data import sources, splits
    with stages.stage("load_source, groups"):
        source = sources.load_source(str(path))
    assert source.labels_N is not None
    for name, grouped in (("plan_splits", False), ("plan_splits, by question", True)):
        plan = splits.SplitPlan(
            phases=PHASES,
            rows=PHASE_ROWS,
            test_rows=TEST_ROWS,
            seed=DEFAULT_SEED,
            group_by_question=grouped,
        )
        with stages.stage(name):
            drawn = splits.plan_splits(source.labels_N, source.question_ids_N, plan)
        assert [len(rows_N) for rows_N in drawn.train] == [
            PHASE_ROWS - len(val_N) for val_N in drawn.val
        ]
    return stages.report(counts=dict(source.counts))


def baseline(path: Path) -> dict[str, Any]:
    """`datasets`: shuffle, filter each class with a Python function, select ranges of rows."""
    stages = Stages()
    with stages.stage("import"):
        import datasets
    datasets.disable_progress_bars()
    with stages.stage("load_dataset"):
        cache = str(path.parent / "cache")
        rows = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=cache
        )
    with stages.stage("shuffle and filter"):
        rows = rows.shuffle(seed=DEFAULT_SEED)
        classes = [
            rows.filter(lambda row: row["is_correct"]),
            rows.filter(lambda row: not row["is_correct"]),
        ]
    with stages.stage("select"):
        sizes = [TEST_ROWS // 2, *[PHASE_ROWS // 200, PHASE_ROWS // 2 - PHASE_ROWS // 200] * PHASES]
        first = 0
        for size in sizes:
            part = [one.select(range(first, first + size)) for one in classes]
            assert len(datasets.concatenate_datasets(part)) == 2 * size
            first += size
    return stages.report()


def main() -> None:
    """Write the table, measure both sides, print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    rows = parser.parse_args().rows
    spawn = multiprocessing.get_context("spawn")
    results: dict[str, Any] = {"rows": rows, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write_table(path, rows)
        for side in (package, baseline):
            with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
                results[side.__name__] = report = process.submit(side, path).result()
            print_report(side.__name__, rows, report)
    path = RESULTS / "splits.json"
    write_json(path, results)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
