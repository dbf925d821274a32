"""Tables of the comparisons at small scale, beside the numbers of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.small_scale.results import accuracy_error
from mv_lightning.atomic import read_json
from mv_lightning.experiments.report import interval_text
from mv_lightning.metrics.comparison import Interval
from mv_lightning.reporting.blocks import Table

REPORT_TEST_ROWS = 1_000
_SHOWN = {"accuracy": "accuracy", "auroc": "AUROC", "log_loss": "log loss"}
_R, _ALPHA = "model.lora.r", "model.lora.alpha"
_PROMPT, _BALANCE = "data.prompt", "data.splits.balance"
_DECAY, _STEPS = "model.optim.weight_decay", "trainer.max_steps"


@dataclass(frozen=True)
class Comparison:
    """A setting of the report, and the cell that has it here."""

    setting: str
    report: str
    """Accuracy of the report, in percent."""
    options: Mapping[str, Any]
    """Of the cell; empty for the reference."""


TABLE_1 = (
    Comparison("r 16, alpha 16", "59.7", {_R: 16, _ALPHA: 16}),
    Comparison("r 16, alpha 32", "55.4", {}),
    Comparison("r 16, alpha 64", "64.8", {_R: 16, _ALPHA: 64}),
    Comparison("r 16, alpha 128", "57.5 and 55.1", {_R: 16, _ALPHA: 128}),
    Comparison("r 32, alpha 128", "57.5", {_R: 32, _ALPHA: 128}),
    Comparison("r 64, alpha 128", "59.1", {_R: 64, _ALPHA: 128}),
    Comparison("r 128, alpha 128", "62.0", {_R: 128, _ALPHA: 128}),
)
"""The report has r 16, alpha 128 in both of its series, with another accuracy in each."""
TABLE_2 = (
    Comparison("prompt without the solution", "55.7", {_PROMPT: "answer_only"}),
    Comparison("prompt with the solution", "65.6", {}),
    Comparison("prompt with detailed instructions", "68.3", {_PROMPT: "detailed"}),
    Comparison("unbalanced training rows", "54.8", {_BALANCE: False}),
    Comparison("balanced training rows", "58.7", {}),
    Comparison("weight decay 0.05", "53.1", {_DECAY: 0.05}),
    Comparison("weight decay 0.02", "52.6", {_DECAY: 0.02}),
    Comparison("weight decay 0.01", "54.0", {}),
    Comparison("weight decay 0", "55.1", {_DECAY: 0}),
    Comparison("half the steps", "54.3 (50 steps)", {_STEPS: 3}),
    Comparison("the steps", "55.5 (100 steps)", {}),
    Comparison("twice the steps", "62.6 (200 steps)", {_STEPS: 12}),
)


def comparisons(folder: Path) -> str:
    """Return Tables 1 and 2 and the table of the spread as Markdown.

    Args:
        folder: Folder of the stored comparisons.
    """
    result = _read(folder, "tables")
    if result is None:
        return "not run\n"
    tables = [_compared(TABLE_1, result), _compared(TABLE_2, result), _spread(result)]
    return "\n\n".join(table.markdown().strip() for table in tables) + "\n"


def tuned(folder: Path) -> str:
    """Return the table of the search as Markdown.

    Args:
        folder: Folder of the stored comparisons.
    """
    result = _read(folder, "tune")
    if result is None:
        return "not run\n"
    rows = []
    for name, title in (("report", "of the report"), ("best", "best of the search")):
        chosen = result["settings"][name]
        rows.append((f"{title}, trial {chosen['trial']}", *_scores(chosen)))
    rows.append(("difference", *_scores(result["differences"], signed=True)))
    head = ["settings", "validation log loss", *(f"test {title}" for title in _SHOWN.values())]
    return Table(head, rows).markdown() + "\n"


def _scores(stages: Mapping[str, Any], signed: bool = False) -> list[str]:
    values = [stages["val"]["log_loss"], *(stages["test"][name] for name in _SHOWN)]
    return [_text(value, signed) for value in values]


def _compared(rows: Sequence[Comparison], result: Mapping[str, Any]) -> Table:
    cells = {_key(cell["options"]): cell for cell in result["cells"]}
    by_label = {cell["label"]: cell for cell in result["cells"]}
    reference = by_label[result["reference"]]
    lines = []
    for row in rows:
        cell = cells.get(_key(row.options)) if row.options else reference
        if cell is None:
            lines.append((row.setting, row.report, "0", *["not run"] * 2 * len(_SHOWN)))
            continue
        metrics = []
        for name in _SHOWN:
            difference = cell["differences"].get(name)
            metrics += [_text(cell["means"][name]), _text(difference, signed=True)]
        lines.append((row.setting, row.report, str(len(cell["runs"])), *metrics))
    head = ["setting", "report, %", "seeds"]
    for title in _SHOWN.values():
        head += [title, "difference"]
    return Table(head, lines)


def _spread(result: Mapping[str, Any]) -> Table:
    test_rows = result["cells"][0]["runs"][0]["test_rows"]
    rows = []
    for name, title in _SHOWN.items():
        spread = result["spread"].get(name)
        if spread is not None:
            numbers = ("within_cells", "of_differences", "detectable")
            rows.append((f"{title}, measured here", *(f"{spread[n]:.3f}" for n in numbers)))
    for rows_count, what in ((test_rows, "here"), (REPORT_TEST_ROWS, "in the report")):
        error = accuracy_error(0.5, rows_count)
        least = f"{1.96 * math.sqrt(2) * error:.3f}"
        rows.append(
            (f"accuracy by {rows_count:,} test rows alone, {what}", f"{error:.3f}", "", least)
        )
    head = (
        "standard deviation",
        "of a run",
        "of a difference on the same rows",
        "two runs differ beyond chance from",
    )
    return Table(head, rows)


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def _text(value: Mapping[str, Any] | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    low, high = (math.nan if end is None else end for end in value["interval"])
    return interval_text(Interval(value["value"], low, high), signed)


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    return read_json(path) if path.is_file() else None
