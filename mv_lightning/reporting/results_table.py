"""The table of a run: the results and the cost of each phase, and where its files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.evaluations import read_metrics
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.phase_results import read_summary
from mv_lightning.reporting.blocks import Table
from mv_lightning.versioning import read_versioned_json

_COLUMNS = ("", "rows", "steps", "minutes", "peak GB", "val loss", "val acc", "val AUROC")


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
        ValueError: No phase is finished there, or a file is damaged or of another format version.
    """
    run = RunFolder(run_dir)
    summaries = [read_summary(phase) for phase in run.finished_phases()]
    if not summaries:
        raise ValueError(f"no finished phase in {run_dir}. Fit a phase first")
    table = phase_table(summaries)
    untrained = _untrained_row(run)
    if untrained is not None:
        table = Table(table.head, [untrained, *table.rows])
    lines = [table.plain()]
    if run.prediction_summary.exists():
        lines += ["", *_prediction(run)]
    adapters = ", ".join(summary["adapter"] for summary in summaries)
    lines.append(f"adapters:    {adapters}")
    lines.append(f"curves:      tensorboard --logdir {run.tensorboard}")
    return "\n".join(lines)


def phase_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Return the results and the cost of each phase.

    Args:
        summaries: `summary.json` of the phases.
    """
    return Table(_COLUMNS, [_phase_row(summary) for summary in summaries])


def missing_note(summary: Mapping[str, Any]) -> str:
    """Return how many predicted rows have no probability, as a part of a sentence; empty for none.

    Args:
        summary: `prediction.json`.
    """
    missing = summary.get("missing")
    return f" ({missing['rows']:,} too long for a probability)" if missing else ""


def _phase_row(summary: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"phase {summary['phase']}",
        f"{summary['rows']:,}",
        f"{summary['steps']:,}",
        f"{summary['minutes']:.1f}",
        f"{summary['peak_memory_gb']:.1f}",
        _score(summary.get("val_loss")),
        _score(summary.get("val_acc")),
        _score(summary.get("val_auroc")),
    )


def _untrained_row(run: RunFolder) -> tuple[str, ...] | None:
    """Return the row of the base without an adapter, on the validation rows of phase 1."""
    metrics = read_metrics(run.untrained.phase(1)).get("val")
    if metrics is None:
        return None
    values = metrics["metrics"]
    accuracy, auroc = (values[name]["value"] for name in ("accuracy", "auroc"))
    return ("untrained", "", "", "", "", *map(_score, (metrics["loss"], accuracy, auroc)))


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _prediction(run: RunFolder) -> list[str]:
    summary = read_versioned_json(run.prediction_summary, "the summary of a prediction")
    result = "predicted"
    if "accuracy" in summary:
        result = f"accuracy {summary['accuracy']:.3f} on"
    return [
        f"test split: {result} {summary['rows']:,} rows{missing_note(summary)}, "
        f"{summary['seconds'] / 60:.1f} min, peak {summary['peak_memory_gb']:.1f} GB",
        f"predictions: {summary['submission']}, probabilities beside it",
    ]
