"""The table of speed in docs/results.md, made from what the other benchmarks have left under `benchmarks/results`.

    python -m benchmarks.table            # print it
    python -m benchmarks.table --write    # put it into docs/results.md, between its two marks
    python -m benchmarks.table --check    # status 1 if docs/results.md holds another one

What has not been run says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from mv_lightning.atomic import atomic_file

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- table: speed -->\n", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    command: str
    """After `python -m benchmarks.`."""
    result: str
    """Name of the file, without its ending."""
    figure: str
    """Where the figure stands in it, key by key; a figure with its spread is its median."""
    shown: str
    """Format of figure and target."""
    target: float | None = None
    at_least: bool = True
    """Whether more is better."""

    def line(self, result: dict[str, Any] | None) -> str:
        """Return the line as Markdown.

        Args:
            result: What its file holds; None where there is none.
        """
        found: Any = result
        for key in self.figure.split():
            found = (found or {}).get(key)
        figure, target, reached = "not run" if result is None else "failed", "", ""
        if self.target is not None:
            target = ("" if self.at_least else "at most ") + self.shown.format(self.target)
        if found is not None:
            value = found["median"] if isinstance(found, dict) else found
            figure = self.shown.format(value)
            if isinstance(found, dict):
                figure += (
                    f" ({self.shown.format(found['min'])} to {self.shown.format(found['max'])})"
                )
            if self.target is not None:
                reached = (
                    "yes"
                    if (value >= self.target if self.at_least else value <= self.target)
                    else "no"
                )
        return f"| {self.what} | {figure} | {target} | {reached} | `python -m benchmarks.{self.command}` |"


TIMES = "{:.1f}x"
"""Rows a second of ours by those of the other side."""
REAL_ROWS = "--source ../shared/data/gsm8k_solutions/labelled.jsonl"
ROWS = (
    Row(
        "training, CPU, against TRL as in the report",
        "train --against trl",
        "train_trl",
        "ratio",
        TIMES,
        3,
    ),
    Row(
        "training, CPU, against TRL at its best",
        "train --against trl-best",
        "train_trl_best",
        "ratio",
        TIMES,
        1.8,
    ),
    Row(
        "prediction, CPU, against generation",
        "predict --against generate",
        "predict_generate",
        "ratio",
        TIMES,
        10,
    ),
    Row(
        "prediction, CPU, against padded batches",
        "predict --against padded",
        "predict_padded",
        "ratio",
        TIMES,
        1.4,
    ),
    Row(
        "four answers a question, against generation",
        f"predict --against generate {REAL_ROWS}",
        "predict_generate_gsm8k_solutions",
        "ratio",
        TIMES,
    ),
    Row(
        "four answers a question, against padded batches",
        f"predict --against padded {REAL_ROWS}",
        "predict_padded_gsm8k_solutions",
        "ratio",
        TIMES,
    ),
    Row(
        "products' share of a training step, CPU",
        "train --against matmul",
        "train_matmul",
        "ratio",
        "{:.0%}",
        0.5,
    ),
    Row(
        "tokenising 20,000 rows, one thread",
        "tokenise",
        "tokenise",
        "seconds_cpu",
        "{:.1f} s",
        10,
        at_least=False,
    ),
    Row("the same, kept on the disk", "tokenise", "tokenise", "seconds_cpu_kept", "{:.2f} s"),
    Row(
        "memory of phase 1, estimated",
        "memory",
        "memory",
        "figures peak_gb",
        "{:.1f} GB",
        14,
        at_least=False,
    ),
    Row(
        "memory of phase 1, GPU",
        "gpu",
        "gpu",
        "stages phase1 peak_gb",
        "{:.1f} GB",
        14,
        at_least=False,
    ),
    Row("rows a second in phase 1, GPU", "gpu", "gpu", "stages phase1 rows_per_s", "{:.2f}"),
    Row(
        "training, GPU, tokens a second",
        "gpu",
        "gpu",
        "stages ours tokens_per_s",
        "{:,.0f}",
        14_000,
    ),
    Row(
        "an epoch of 19,800 rows, GPU",
        "gpu",
        "gpu",
        "stages ours epoch_minutes",
        "{:.1f} min",
        9,
        at_least=False,
    ),
    Row("training, GPU, against TRL as in the report", "gpu", "gpu", "times trl", TIMES, 3),
    Row("training, GPU, against Unsloth as in the report", "gpu", "gpu", "times unsloth", TIMES, 1),
    Row(
        "prediction of 10,000 rows, GPU",
        "gpu",
        "gpu",
        "stages ours predict_s",
        "{:.0f} s",
        90,
        at_least=False,
    ),
    Row("prediction, GPU, against generation", "gpu", "gpu", "times generate", TIMES, 20),
    Row("writing a checkpoint, GPU", "gpu", "gpu", "stages ours checkpoint_s", "{:.1f} s"),
)


def table(results: Path = RESULTS) -> str:
    """Return the table as Markdown.

    Args:
        results: Folder of the results.
    """
    lines = ["| what | figure | target | reached | command |", "| --- | --- | --- | --- | --- |"]
    for row in ROWS:
        path = results / f"{row.result}.json"
        lines.append(
            row.line(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None)
        )
    return "\n".join(lines) + "\n"


def main(document: Path = DOCUMENT, results: Path = RESULTS) -> None:
    """Print the table, write it into docs/results.md, or exit with status 1 where that holds another one.

    Args:
        document: Where the table stands, between its marks.
        results: Folder of the results.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    wish.add_argument(
        "--check",
        action="store_true",
        help="exit with status 1 if docs/results.md holds another one",
    )
    options, made = parser.parse_args(), table(results)
    if not (options.write or options.check):
        print(made, end="")
        return
    text = document.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(
            f"error: {document} has no lines {START.strip()} and {END}; put them where the table shall stand"
        )
    wanted = before + start + made + end + after
    if options.write:
        with atomic_file(document) as tmp_path:
            tmp_path.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        sys.exit(
            f"error: {document} does not hold the table of the results; put it there with --write"
        )


if __name__ == "__main__":
    main()
