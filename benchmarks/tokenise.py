"""Time to tokenise the 20,000 rows of a phase with the longest prompt, on one thread.

    python -m benchmarks.tokenise [--source FILE]

Without a source: rows of `benchmarks.splits`, with solutions of so many lines that the mean length
is the contest's. Their lines repeat, so the tokenizer's cache helps more than on real text. A file
with fewer rows is repeated. The tokens are then cached as a phase caches them, and read back.
Writes
`benchmarks/results/tokenise.json`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import record, spread, timed
from benchmarks.splits import write_table
from mv_lightning.data.cache import cached
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.model.bundled import BUNDLED
from mv_lightning.schema import TEXT_COLUMNS

LINES = 11
"""Lines of a solution: about 385 tokens a row, the prompt `detailed` included."""
TARGET_S = 10.0


def main() -> None:
    """Tokenise a few times, print the figures and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--source", help="rows, as data.source")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        if options.source is None:
            write_table(path, options.rows, LINES)
        table = load_source(options.source or str(path)).table
        chosen = table.select(np.arange(options.rows) % len(table))
        columns = {name: chosen[name][:] for name in TEXT_COLUMNS}
    tokenizer, prompt = load_tokenizer(BaseSettings(name=BUNDLED)), load_prompt("detailed")
    costs = []
    for _ in range(options.times):
        cost, encoded = timed(
            lambda: encode_rows(
                columns, None, np.arange(options.rows), prompt, tokenizer, max_length=2048
            )
        )
        print(", ".join(f"{name} {value:.2f}" for name, value in cost.items()), flush=True)
        costs.append(cost)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        cached(tokens, {}, lambda: [encoded])
        reading = [
            timed(lambda: cached(tokens, {}, lambda: [encoded]))[0] for _ in range(options.times)
        ]
    record(
        "tokenise" if options.source is None else f"tokenise_{Path(options.source).stem}",
        settings=vars(options),
        measurements=costs,
        seconds_cpu=spread([cost["cpu_s"] for cost in costs]),
        seconds_wall=spread([cost["wall_s"] for cost in costs]),
        seconds_cpu_kept=spread([cost["cpu_s"] for cost in reading]),
        figures={
            "rows": options.rows,
            "distinct_rows": min(options.rows, len(table)),
            "mean_tokens": float(encoded.lengths_N.mean() + len(encoded.prefix_ids)),
            "target_s": TARGET_S,
        },
    )


if __name__ == "__main__":
    main()
