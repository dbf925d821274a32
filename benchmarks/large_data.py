"""Memory and time of large sources as their rows grow, from the file to splits and predictions.

    python -m benchmarks.large_data [--rows 100000 1000000] [--predicted 100000 1000000]
        [--with-model 5000 20000] [--limit-gb 8]

`--rows`: a Parquet file of as many rows of the contest's length is read and checked, divided into
splits in three ways, and their manifest written and read; in the last way the splits take three
fifths of the rows. `--predicted`: `predict` of short rows, with random numbers in place of the
forward passes. `--with-model`: the same with the tiny model of the tests.

Every size runs in a process of its own, which may not allocate more than `--limit-gb`. Memory is
what the process itself holds (`RssAnon` of Linux, sampled). Mapped pages of files are not counted:
the system drops them when it needs the space. `resident_mb` counts them, too.
Writes `benchmarks/results/large_data/`. An option without numbers leaves its file as it is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from benchmarks.measure import record

if TYPE_CHECKING:
    from mv_lightning.schema import Batch

PHASES, PHASE_ROWS, TEST_ROWS = 3, 20_000, 1_000
SEED_ROWS = 2_000
"""Generated rows that are repeated, each with a number of its own in question and solution."""
SOLUTIONS = 4
"""Rows of a question."""
LINES = 7
"""Repetitions of a generated solution that give the contest's length."""
SHORT_QUESTION = 20
"""Characters of the questions of short rows, before their number."""
_BATCH = 1 << 16
_SAMPLE_SECONDS = 0.01


class Usage:
    """CPU seconds and peak memory of the stages of this process."""

    def __init__(self) -> None:
        """Start to sample."""
        self.stages: dict[str, dict[str, float]] = {}
        self._peak = 0
        threading.Thread(target=self._sample, daemon=True).start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block under `name`."""
        before = self._peak = _memory("RssAnon")
        cpu = time.process_time()
        yield
        self._peak = max(self._peak, _memory("RssAnon"))
        self.stages[name] = {
            "cpu_s": time.process_time() - cpu,
            "peak_mb": self._peak / 1e6,
            "added_mb": (_memory("RssAnon") - before) / 1e6,
        }

    def report(self) -> dict[str, Any]:
        """Return the stages, and peaks and seconds of all."""
        for name, stage in self.stages.items():
            figures = ", ".join(f"{key} {value:,.1f}" for key, value in stage.items())
            print(f"  {name:28} {figures}", flush=True)
        return {
            "stages": self.stages,
            "cpu_s": sum(stage["cpu_s"] for stage in self.stages.values()),
            "peak_mb": max(stage["peak_mb"] for stage in self.stages.values()),
            "resident_mb": _memory("VmHWM") / 1e6,
        }

    def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, _memory("RssAnon"))
            time.sleep(_SAMPLE_SECONDS)


def _memory(name: str) -> int:
    """A figure of this process in bytes, by its name in `/proc/self/status`."""
    with Path("/proc/self/status").open(encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def write_rows(path: Path, rows: int, lines: int) -> None:
    """Write different rows quickly: 40 % True, four solutions of a question.

    Args:
        path: Parquet file.
        rows: Rows of the table.
        lines: How often the generated solution is repeated in each; 0 for short rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as parquet

    from mv_lightning.data.synthetic import synthetic_table

    rng = np.random.default_rng(0)
    seeds = synthetic_table("train", SEED_ROWS, 1, None)
    names = ("question", "answer", "solution")
    question, answer, solution = (seeds[name].combine_chunks() for name in names)
    solution = pc.binary_repeat(solution, lines)
    if not lines:
        question = pc.utf8_slice_codeunits(question, 0, SHORT_QUESTION)
    schema = pa.schema([*((name, pa.string()) for name in names), ("is_correct", pa.bool_())])
    with parquet.ParquetWriter(path, schema, compression="zstd") as file:
        for start in range(0, rows, _BATCH):
            size = min(_BATCH, rows - start)
            questions_N = rng.integers(0, max(1, rows // SOLUTIONS), size)
            seeds_N = pa.array(questions_N % SEED_ROWS)
            numbers = pa.array(np.arange(start, start + size)).cast(pa.string())
            question_numbers = pa.array(questions_N).cast(pa.string())
            columns = [
                pc.binary_join_element_wise(question.take(seeds_N), question_numbers, " Case "),
                answer.take(seeds_N),
                pc.binary_join_element_wise(numbers, solution.take(seeds_N), ". "),
                pa.array(rng.random(size) < 0.4),
            ]
            file.write_batch(pa.record_batch(columns, schema=schema))


def split_rows(folder: Path, rows: int) -> dict[str, Any]:
    """Read and check the file in `folder`, divide its rows, write and read the manifest."""
    import datasets  # noqa: F401

    from mv_lightning.data import sources, splits

    usage = Usage()
    with usage.stage("read and check"):
        source = sources.load_source(str(folder / "rows.parquet"))
    labels_N, questions_N = source.labels_N, source.question_ids_N
    assert labels_N is not None
    sizes = {"phase_rows": PHASE_ROWS, "all": rows // 10 * 2}
    for name, size, grouped in (
        ("splits", sizes["phase_rows"], False),
        ("splits by question", sizes["phase_rows"], True),
        ("large splits", sizes["all"], False),
    ):
        plan = splits.SplitPlan(
            phases=PHASES, rows=size, test_rows=TEST_ROWS, group_by_question=grouped
        )
        with usage.stage(name):
            drawn = splits.plan_splits(labels_N, questions_N, plan)
    with usage.stage("manifest"):
        path = folder / "manifest.json"
        fields = splits.manifest(source.fingerprint, plan, drawn, labels_N, questions_N)
        splits.write_manifest(path, fields, drawn)
        splits.read_manifest(path)
    return {**usage.report(), "text_mb": source.table.data.nbytes / 1e6, "counts": source.counts}


def predicted_rows(folder: Path, rows: int) -> dict[str, Any]:
    """Predict the file in `folder` with random numbers in place of the forward passes."""
    import torch

    from mv_lightning.training.module import VerdictModule

    rng = torch.Generator().manual_seed(0)

    def predict_step(module: VerdictModule, batch: Batch, batch_idx: int) -> Any:
        return batch.rows_B, torch.randn(len(batch.rows_B), generator=rng), []

    with patch.object(VerdictModule, "predict_step", predict_step):
        return _predict(folder, _options(folder), "none")


def model_rows(folder: Path, rows: int) -> dict[str, Any]:
    """Predict the file in `folder` with a tiny model."""
    from mv_lightning.cli import main

    options = _options(folder)
    main(["fit", "--config", "configs/phase1.yaml", *options, "--trainer.max_steps", "1"])
    return _predict(folder, options, str(folder / "run" / "phase1" / "adapter"))


def _options(folder: Path) -> list[str]:
    from mv_lightning.testing import save_tiny_base, tiny_options

    save_tiny_base(folder / "base")
    prompt = ["--data.prompt", "answer_only", "--data.max_length", "2048"]
    return [*tiny_options(folder / "base", folder / "run"), *prompt]


def _predict(folder: Path, options: list[str], adapter: str) -> dict[str, Any]:
    from mv_lightning.cli import main

    rows = ["--predict.source", str(folder / "rows.parquet"), "--predict.calibrate", "false"]
    usage = Usage()
    with usage.stage("predict"):
        command = ["predict", "--config", "configs/predict.yaml", "--model.init_from", adapter]
        main([*command, *options, *rows])
    return usage.report()


def _limited(measure: Callable[[Path, int], dict[str, Any]], limit: int, *args: Any) -> Any:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return measure(*args)


def run(
    measure: Callable[[Path, int], dict[str, Any]], sizes: Sequence[int], lines: int, limit: int
) -> dict[str, Any]:
    """Measure sizes, and what each row adds between the smallest and the largest.

    Args:
        measure: Given the folder of `rows.parquet` and its rows.
        sizes: Rows; at least two numbers.
        lines: See `write_rows`.
        limit: Bytes that a process may allocate.
    """
    reports: dict[str, Any] = {}
    for rows in sizes:
        print(f"{measure.__name__}: {rows:,} rows", flush=True)
        spawn = multiprocessing.get_context("spawn")
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process,
        ):
            write_rows(Path(folder) / "rows.parquet", rows, lines)
            job = process.submit(_limited, measure, limit, Path(folder), rows)
            reports[str(rows)] = job.result()
    first, last = (reports[str(rows)] for rows in (min(sizes), max(sizes)))
    added = max(sizes) - min(sizes)
    return {
        "sizes": reports,
        "bytes_per_row": (last["peak_mb"] - first["peak_mb"]) * 1e6 / added,
        "cpu_us_per_row": (last["cpu_s"] - first["cpu_s"]) * 1e6 / added,
    }


def main() -> None:
    """Measure all sizes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, sizes in (
        ("--rows", [100_000, 1_000_000]),
        ("--predicted", [100_000, 1_000_000]),
        ("--with-model", [5_000, 20_000]),
    ):
        parser.add_argument(name, nargs="*", type=int, default=sizes)
    parser.add_argument("--limit-gb", type=float, default=8.0)
    options = parser.parse_args()
    limit = int(options.limit_gb * 1e9)
    for name, measure, rows, lines in (
        ("rows", split_rows, options.rows, LINES),
        ("predicted", predicted_rows, options.predicted, 0),
        ("with_model", model_rows, options.with_model, 0),
    ):
        if rows:
            record(f"large_data/{name}", settings=vars(options), **run(measure, rows, lines, limit))


if __name__ == "__main__":
    main()
