"""How long `analyze` takes on a million rows, and how much memory.

    python -m benchmarks.analyze [--rows 1000000] [--tokenizer embedded]

Two tables of `benchmarks.splits`: its short rows, and rows with solutions of 25 lines, which make 1 GB of text, about
what a million of the contest's rows hold. Each is analysed in a process of its own, so that the peak memory is its own
(libraries included). Writes `benchmarks/results/analyze.json`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.splits import Stages, print_report, write_table
from mv_lightning.atomic import write_json

RESULTS = Path(__file__).parent / "results" / "analyze.json"
STEPS = {"short": 1, "long": 25}


def analyze(words: list[str]) -> dict[str, Any]:
    """Run the task as its command does."""
    stages = Stages()
    with stages.stage("import"):
        from mv_lightning.commands.analyze import run_analyze
    with stages.stage("analyze"):
        run_analyze(words)
    return stages.report()


def main() -> None:
    """Write the tables, analyse them, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each table")
    parser.add_argument(
        "--tokenizer", default="bundled", help="base model whose tokens are counted"
    )
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    results: dict[str, Any] = {
        "rows": options.rows,
        "tokenizer": options.tokenizer,
        "machine": machine(),
    }
    for name, steps in STEPS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            write_table(path, options.rows, steps)
            words = ["--source", str(path), "--out", folder, "--tokenizer", options.tokenizer]
            with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
                results[name] = process.submit(analyze, words).result()
        print_report(name, options.rows, results[name])
    write_json(RESULTS, results)


if __name__ == "__main__":
    main()
