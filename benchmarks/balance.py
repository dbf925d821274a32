"""How much longer the slowest process computes than the mean one, with the rows of a step dealt by
tokens and by number.

    python -m benchmarks.balance [--sets ../shared/data]

The lengths are those of the real labelled solutions under the detailed prompt, with the tokenizer
of the bundled model; the instruction counts once for every micro-batch, as it is computed. No model
runs: the imbalance of a step is the packed tokens of the process with the most, divided by the mean
over processes, which `fit` logs as `speed/imbalance`. The figures are means over the steps of an
epoch. Writes `benchmarks/results/balance.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import record
from mv_lightning.data.batching import deal, epoch_order
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.model.base import BaseSettings, load_tokenizer
from mv_lightning.schema import DEFAULT_SEED, EncodedRows

ROOT = Path(__file__).parents[1]
DIVISIONS = (
    (2, 2, 2),
    (4, 2, 1),
    (8, 1, 1),
    (2, 8, 1),
    (4, 8, 1),
    (8, 8, 1),
    (8, 2, 4),
    (64, 8, 1),
)
"""Processes, rows of a micro-batch, micro-batches of a step. The first three have the 8 rows of the
report in a step."""


def read_rows(path: Path) -> EncodedRows:
    """Tokenise a file of labelled rows.

    Args:
        path: The file.
    """
    source = load_source(str(path))
    columns = {name: source.table[name][:] for name in ("question", "answer", "solution")}
    tokenizer = load_tokenizer(BaseSettings(name="bundled"))
    rows_N = np.arange(len(source.ids))
    return encode_rows(columns, source.labels_N, rows_N, load_prompt("detailed"), tokenizer, 2048)


def imbalance(
    rows: EncodedRows, processes: int, batch_size: int, accumulate: int
) -> dict[str, float]:
    """Return the mean imbalance of an epoch's whole steps, by the way of dealing.

    Args:
        rows: The rows.
        processes: Processes.
        batch_size: Rows of a micro-batch.
        accumulate: Micro-batches of a process in a step.
    """
    each = batch_size * accumulate
    order_N = epoch_order(len(rows), DEFAULT_SEED, 1, 0)
    instructions = accumulate * len(rows.prefix_ids)
    found: dict[str, list[float]] = {"by_tokens": [], "by_number": []}
    for start in range(0, len(rows) - each * processes + 1, each * processes):
        tokens_S = rows.lengths_N[order_N[start : start + each * processes]]
        by_number = np.arange(len(tokens_S)).reshape(processes, each)
        for name, hands in (
            ("by_tokens", deal(tokens_S.tolist(), processes, each)),
            ("by_number", by_number.tolist()),
        ):
            totals_P = np.array([tokens_S[hand].sum() + instructions for hand in hands])
            found[name].append(totals_P.max() / totals_P.mean())
    return {name: float(np.mean(values)) for name, values in found.items()}


def main() -> None:
    """Measure every division on every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--sets", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the sets"
    )
    sets = parser.parse_args().sets
    content: dict[str, Any] = {}
    for path in sorted(sets.glob("*/labelled.*")):
        rows = read_rows(path)
        name = path.parent.name
        content[f"{name} tokens"] = {
            "rows": len(rows),
            "instruction": len(rows.prefix_ids),
            "mean": float(rows.lengths_N.mean()),
            "longest": int(rows.lengths_N.max()),
        }
        for division in DIVISIONS:
            key = "{} processes x {} rows x {}".format(*division)
            content[f"{name} {key}"] = imbalance(rows, *division)
    record("balance", **content)


if __name__ == "__main__":
    main()
