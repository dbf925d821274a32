"""Time and memory of `analyze` on a million rows.

    python -m benchmarks.analyze [--rows 1000000] [--tokenizer bundled]

Two tables of `benchmarks.splits`: its short rows, and rows with solutions of 25 lines, about 1 GB
of text, as much as a million rows of the contest. Each table is analysed in its own process, so
that peak memory is measured separately (libraries included). Writes
`benchmarks/results/analyze.json`.
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


def analyze(args: list[str]) -> dict[str, Any]:
    """Run the command in this process."""
    stages = Stages()
    with stages.stage("import"):
        from mv_lightning.commands.analyze import run
    with stages.stage("analyze"):
        run(args)
    return stages.report()


def main() -> None:
    """Write the tables, analyse them, print the figures and write them."""
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
            args = ["--source", str(path), "--out", folder, "--tokenizer", options.tokenizer]
            with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
                results[name] = process.submit(analyze, args).result()
        print_report(name, options.rows, results[name])
    write_json(RESULTS, results)


if __name__ == "__main__":
    main()
