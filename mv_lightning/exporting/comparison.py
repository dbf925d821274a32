"""Whether an export gives the verdicts of the verifier it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.artifacts.phase_results import STAGES, PhaseResults, load_rows
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.scores import metric_values
from mv_lightning.reporting.blocks import Table

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class HeldOutRows:
    """N rows to compare on."""

    rows: datasets.Dataset
    labels_N: np.ndarray | None
    """bool [N]; None where the source has no labels."""
    description: str
    """Which rows they are."""


def held_out_rows(phase: PhaseResults, source: str | None, max_rows: int) -> HeldOutRows:
    """Return rows that a phase was not trained on.

    Args:
        phase: A finished phase.
        source: The rows to compare on; None for the phase's held-out test set, or its
            validation rows where there is no test set.
        max_rows: Limit of their number.

    Raises:
        ValueError: The rows cannot be read, or the phase held none out.
    """
    if source is not None:
        loaded = load_source(source, split="test", labelled=None)
        rows_N, description = np.arange(len(loaded.table)), source
    else:
        loaded = load_rows(phase)
        stage, rows_N = "test", phase.splits.test
        if not len(rows_N):
            stage, rows_N = "val", phase.splits.val[phase.folder.phase - 1]
        if not len(rows_N):
            raise ValueError(
                f"{phase.name} has neither a held-out test set nor validation rows to compare on. "
                "Name rows with --source"
            )
        description = f"{STAGES[stage]} rows"
    rows_N = rows_N[:max_rows]
    labels_N = None if loaded.labels_N is None else loaded.labels_N[rows_N]
    return HeldOutRows(loaded.table.select(rows_N), labels_N, description)


def compare(
    calibration: Calibration, before_N: np.ndarray, after_N: np.ndarray, labels_N: np.ndarray | None
) -> dict[str, Any]:
    """Compare two sets of log-odds of the same rows.

    Args:
        calibration: Turns log-odds into verdicts.
        before_N: float64 [N], raw log-odds of the verifier.
        after_N: float64 [N], raw log-odds of the export.
        labels_N: bool [N]; None for no AUROC.

    Returns:
        Plain values: `rows`, `flips` (verdicts that differ), `log_odds_change` (`mean` and `max`),
        and `auroc` (`before`, `after`, `change`), None without labels of both classes.
    """
    change_N = np.abs(after_N - before_N)
    flips = np.count_nonzero(calibration.decide(before_N) != calibration.decide(after_N))
    auroc = None
    if labels_N is not None and len(np.unique(labels_N)) == 2:
        before, after = (metric_values(labels_N, odds_N)["auroc"] for odds_N in (before_N, after_N))
        auroc = {"before": before, "after": after, "change": after - before}
    return {
        "rows": len(before_N),
        "flips": int(flips),
        "log_odds_change": {"mean": float(change_N.mean()), "max": float(change_N.max())},
        "auroc": auroc,
    }


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Return the content of `export.json` as a table.

    Args:
        comparison: See `compare`; `format` names the export.
    """
    change, flips, auroc = (comparison[name] for name in ("log_odds_change", "flips", "auroc"))
    rows = [
        ("verdicts that differ", f"{flips} ({flips / comparison['rows']:.2%})"),
        ("change of log-odds, mean", f"{change['mean']:.4f}"),
        ("change of log-odds, maximum", f"{change['max']:.4f}"),
    ]
    if auroc:
        values = f"{auroc['before']:.4f} before, {auroc['after']:.4f} after"
        rows.append(("AUROC", f"{values} ({auroc['change']:+.4f})"))
    return Table(("", comparison["format"]), rows)
