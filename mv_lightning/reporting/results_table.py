"""The table of a run: what each phase reached and cost, and where its products lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.reporting.blocks import Table


def show_table(run_dir: Path) -> None:
    """Print the results that a run has left so far.

    Args:
        run_dir: The run's folder (`run.dir`).
    """
    print("\n" + results_table(run_dir))


def results_table(run_dir: Path) -> str:
    """Return the results as text: a row per finished phase, then the prediction, then the paths.

    Args:
        run_dir: The run's folder.

    Raises:
        ValueError: No phase is finished there.
    """
    phases = [_read(phase.summary) for phase in RunFolder(run_dir).finished_phases()]
    if not phases:
        raise ValueError(f"no finished phase in {run_dir}; fit one first")
    table = phase_table(phases)
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (table.head, *table.rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    prediction = RunFolder(run_dir).prediction_summary
    if prediction.exists():
        p = _read(prediction)
        told = f"accuracy {p['accuracy']:.3f} on" if "accuracy" in p else "predicted"
        lines += [
            "",
            f"test split: {told} {p['rows']:,} rows, {p['seconds'] / 60:.1f} min, peak {p['peak_memory_gb']:.1f} GB",
        ]
        lines.append(f"predictions: {p['submission']}, probabilities beside it")
    lines.append(f"adapters:    {', '.join(p['adapter'] for p in phases)}")
    lines.append(f"curves:      tensorboard --logdir {RunFolder(run_dir).tensorboard}")
    return "\n".join(lines)


def phase_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each phase reached and cost.

    Args:
        summaries: `summary.json` of the phases.
    """
    head = ("", "rows", "steps", "minutes", "peak GB", "val loss", "val acc", "val AUROC")
    rows = [
        (
            f"phase {p['phase']}",
            f"{p['rows']:,}",
            f"{p['steps']:,}",
            f"{p['minutes']:.1f}",
            f"{p['peak_memory_gb']:.1f}",
            *(
                "-" if p.get(name) is None else f"{p[name]:.3f}"
                for name in ("val_loss", "val_acc", "val_auroc")
            ),
        )
        for p in summaries
    ]
    return Table(head, rows)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
