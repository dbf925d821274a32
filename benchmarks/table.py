"""Tables of the documents, made from what the benchmarks wrote to `benchmarks/results`.

    python -m benchmarks.table            # print all tables
    python -m benchmarks.table --write    # write them into the documents, between their markers
    python -m benchmarks.table --check    # exit with status 1 if a document has another table

A table `NAME` belongs between the lines `<!-- table: NAME -->` and `<!-- end -->` of README.md or
of a file in docs/. A benchmark that was not run is shown as such.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from benchmarks.proof.tables import best_verifier
from benchmarks.proof.tables import markdown as proof
from benchmarks.small_scale.tables import comparisons, tuned
from mv_lightning.atomic import atomic_file

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A row of the table of speed."""

    what: str
    command: str
    """After `python -m benchmarks.`."""
    result: str
    """Name of the file, without its suffix."""
    figure: str
    """Keys of the figure in the file, separated by spaces; of a distribution, the median counts."""
    number_format: str
    """Format of figure and target."""
    target: float | None = None
    at_least: bool = True
    """Whether more is better."""
    divided_by: str | None = None
    """Name of another file, by whose figure this one is divided."""
    in_summary: bool = False
    """Whether the README shows it, once it was measured."""

    def value(self, results: Path) -> Any:
        """Return the stored figure: a number, a distribution, or None where there is none.

        Args:
            results: Folder of the results.
        """
        values = [self._stored(result) for result in self._read(results)]
        if None in values:
            return None
        return values[0] if len(values) == 1 else values[0] / values[1]

    def text(self, results: Path) -> str:
        """Return the figure with its range, or why there is none.

        Args:
            results: Folder of the results.
        """
        value, show = self.value(results), self.number_format.format
        if value is None:
            files = self._read(results)
            return "failed" if all(file and "skipped" not in file for file in files) else "not run"
        if isinstance(value, dict):
            return f"{show(value['median'])} ({show(value['min'])} to {show(value['max'])})"
        return show(value)

    def cells(self, results: Path) -> list[str]:
        """Return the cells of the row.

        Args:
            results: Folder of the results.
        """
        command = f"`python -m benchmarks.{self.command}`"
        if self.target is None:
            return [self.what, self.text(results), "", "", command]
        limit = "" if self.at_least else "at most "
        target = limit + self.number_format.format(self.target)
        return [self.what, self.text(results), target, self._reached(results), command]

    def _read(self, results: Path) -> list[Any]:
        names = [self.result] if self.divided_by is None else [self.result, self.divided_by]
        return [read_result(results, name) for name in names]

    def _stored(self, result: Any) -> Any:
        for key in self.figure.split():
            result = (result or {}).get(key)
        return result

    def _reached(self, results: Path) -> str:
        value = self.value(results)
        if value is None or self.target is None:
            return ""
        figure = value["median"] if isinstance(value, dict) else value
        margin = figure - self.target
        if not self.at_least:
            margin = -margin
        return "yes" if margin >= 0 else "no"


TIMES = "{:.1f}x"
"""Throughput of the package divided by that of the other side."""
REAL_ROWS = "--source ../shared/data/gsm8k_solutions/labelled.jsonl"
SPEED = (
    Row(
        "training, CPU, against TRL as in the report",
        "train --against trl",
        "train_trl",
        "ratio",
        TIMES,
        3,
        in_summary=True,
    ),
    Row(
        "training, CPU, against TRL at its best",
        "train --against trl-best",
        "train_trl_best",
        "ratio",
        TIMES,
        1.8,
        in_summary=True,
    ),
    Row(
        "prediction, CPU, against generation",
        "predict --against generate",
        "predict_generate",
        "ratio",
        TIMES,
        10,
        in_summary=True,
    ),
    Row(
        "prediction, CPU, against padded batches",
        "predict --against padded",
        "predict_padded",
        "ratio",
        TIMES,
        1.4,
        in_summary=True,
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
    Row("server under 32 clients, against row after row, CPU", "serve", "serve", "ratio", TIMES),
    Row(
        "share of matrix products in a training step, CPU",
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
    Row("reading the cached tokens", "tokenise", "tokenise", "seconds_cpu_kept", "{:.2f} s"),
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
        "gpu/phase1",
        "peak_gb",
        "{:.1f} GB",
        14,
        at_least=False,
        in_summary=True,
    ),
    Row(
        "memory of phase 1 that PyTorch reserved, GPU",
        "gpu",
        "gpu/phase1",
        "reserved_gb",
        "{:.1f} GB",
    ),
    Row("rows per second in phase 1, GPU", "gpu", "gpu/phase1", "rows_per_s", "{:.2f}"),
    Row(
        "training, GPU, tokens per second",
        "gpu",
        "gpu/package",
        "tokens_per_s",
        "{:,.0f}",
        14_000,
        in_summary=True,
    ),
    Row(
        "training, every layer recomputed, GPU, tokens per second",
        "gpu",
        "gpu/package",
        "recomputed tokens_per_s",
        "{:,.0f}",
    ),
    Row(
        "an epoch of 19,800 rows, GPU",
        "gpu",
        "gpu/package",
        "epoch_minutes",
        "{:.1f} min",
        9,
        at_least=False,
        in_summary=True,
    ),
    Row("kernels in a training step, GPU", "gpu", "gpu/profile", "kernels_a_step", "{:,.0f}"),
    Row("share of a step without a kernel, GPU", "gpu", "gpu/profile", "idle_share", "{:.0%}"),
    Row(
        "training, GPU, against TRL as in the report",
        "gpu",
        "gpu/trl",
        "epoch_minutes",
        TIMES,
        3,
        divided_by="gpu/package",
        in_summary=True,
    ),
    Row(
        "training, GPU, against Unsloth as in the report",
        "gpu",
        "gpu/unsloth",
        "epoch_minutes",
        TIMES,
        1,
        divided_by="gpu/package",
    ),
    Row(
        "prediction of 10,000 rows, GPU",
        "gpu",
        "gpu/package",
        "predict_s",
        "{:.0f} s",
        90,
        at_least=False,
        in_summary=True,
    ),
    Row(
        "prediction, GPU, against generation",
        "gpu",
        "gpu/generate",
        "predict_s",
        TIMES,
        20,
        divided_by="gpu/package",
    ),
    Row("writing a checkpoint, GPU", "gpu", "gpu/package", "checkpoint_s", "{:.1f} s"),
)


def read_result(results: Path, name: str) -> Any:
    """Return what a benchmark stored, or None where it was not run.

    Args:
        results: Folder of the results.
        name: Name of the file, without its suffix.
    """
    path = results / f"{name}.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table.

    Args:
        head: Names of the columns.
        rows: Cells, row by row.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def speed(results: Path) -> str:
    """Return the table of speed and memory.

    Args:
        results: Folder of the results.
    """
    head = ["what", "figure", "target", "reached", "command"]
    return markdown(head, [row.cells(results) for row in SPEED])


def summary(results: Path) -> str:
    """Return the few measured figures that the README shows.

    Args:
        results: Folder of the results.
    """
    rows = []
    for row in SPEED:
        if row.in_summary and row.value(results) is not None:
            command = f"`python -m benchmarks.{row.command}`"
            rows.append([row.what, row.text(results), command])
    rows += best_verifier(results / "proof")
    if faults := read_result(results, "fault_injection_train"):
        what = f"three phases, killed {faults['kills']} times, against an uninterrupted run"
        equal = "equal, bit for bit" if all(faults["identical"].values()) else "different"
        rows.append([what, equal, "`python -m benchmarks.fault_injection train`"])
    if splits := read_result(results, "splits"):
        stages, peak = splits["package"]["stages"], splits["package"]["peak_memory_mb"]
        figure = f"{stages['load_source, groups']['wall_s']:.1f} s, {peak} MB"
        what = f"reading and checking {splits['rows']:,} rows"
        rows.append([what, figure, "`python -m benchmarks.splits`"])
    return markdown(["what", "figure", "command"], rows)


TABLES: dict[str, Callable[[Path], str]] = {
    "summary": summary,
    "speed": speed,
    "proof": lambda results: proof(results / "proof"),
    "comparisons": lambda results: comparisons(results / "comparisons"),
    "tune": lambda results: tuned(results / "comparisons"),
}
"""By the name in the markers."""


def documents(root: Path = ROOT) -> list[Path]:
    """Return the documents that may contain tables.

    Args:
        root: Folder of the repository.
    """
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str, results: Path) -> str:
    """Return a document with the current tables between its markers.

    Args:
        text: The document.
        results: Folder of the results.

    Raises:
        ValueError: A marker names a table that does not exist.
    """

    def block(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"expected a table of {', '.join(TABLES)}, got the marker {name!r}")
        return start + TABLES[name](results) + end

    return _BLOCK.sub(block, text)


def main(root: Path = ROOT, results: Path = RESULTS) -> None:
    """Print the tables, write them into the documents, or compare them with the documents.

    Args:
        root: Folder of the repository.
        results: Folder of the results.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write the tables into the documents")
    action.add_argument(
        "--check", action="store_true", help="exit with status 1 if a document has another table"
    )
    options = parser.parse_args()
    if not (options.write or options.check):
        print("\n".join(table(results) for table in TABLES.values()), end="")
        return
    texts = {path: path.read_text(encoding="utf-8") for path in documents(root)}
    present = {match[2] for match in _BLOCK.finditer("\n".join(texts.values()))}
    if missing := sorted(TABLES.keys() - present):
        sys.exit(
            f"error: no document has the table {missing[0]}. Put the lines "
            f"<!-- table: {missing[0]} --> and <!-- end --> where it belongs"
        )
    for path, text in texts.items():
        expected = filled(text, results)
        if options.write:
            with atomic_file(path) as tmp_path:
                tmp_path.write_text(expected, encoding="utf-8")
        elif text != expected:
            sys.exit(f"error: {path} has outdated tables. Run python -m benchmarks.table --write")


if __name__ == "__main__":
    main()
