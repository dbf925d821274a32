"""What finished phases left, as blocks of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mv_lightning.artifacts.phase_results import STAGES, PhaseResults
from mv_lightning.formatting import flatten_settings
from mv_lightning.reporting.blocks import Section, Table
from mv_lightning.training.settings import resume_locked_settings

_SOURCE_SETTINGS = ("model.base.name", "data.source", "data.prompt")
_METRIC_TITLES = {
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auroc_within_question": "AUROC within a question",
    "brier": "Brier score",
    "ece": "ECE",
}
_SLICE_TITLES = {
    "tokens": "tokens, at most",
    "truncated": "solution",
    "kind": "kind of error:",
    "level": "level:",
    "question": "question",
    "source": "source:",
}
_SLICE_METRICS = ("accuracy", "balanced_accuracy", "auroc", "auroc_within_question", "ece")


def settings_tables(phases: Sequence[PhaseResults]) -> list[Table]:
    """Return the settings that decide a result.

    Args:
        phases: In order.
    """
    columns = {}
    for phase in phases:
        settings = flatten_settings(phase.settings)
        sources = {name: settings.get(name) for name in _SOURCE_SETTINGS}
        columns[phase.name] = sources | resume_locked_settings(settings)
    return phase_tables(columns)


def phase_tables(columns: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return what differs between phases with a column for each, and what they share once.

    Args:
        columns: Values by name, of each phase by its name.
    """
    names: dict[str, None] = {}
    for column in columns.values():
        names |= dict.fromkeys(column)
    common, differing = [], []
    for name in names:
        values = [_cell(column.get(name)) for column in columns.values()]
        if len(set(values)) == 1:
            common.append((name, values[0]))
        else:
            differing.append((name, *values))
    common_title = "all phases" if len(columns) > 1 else next(iter(columns))
    tables = (Table(("", *columns), differing), Table(("", common_title), common))
    return [table for table in tables if table.rows]


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Return all metrics with their 95 % intervals, a column for each stage.

    Args:
        metrics: By stage, as `metrics.json` holds them; at least one.
    """
    head = [""]
    for stage, scores in metrics.items():
        of_split = ""
        if scores["rows"] < scores["split_rows"]:
            of_split = f" of {scores['split_rows']:,}"
        head.append(f"{STAGES[stage]}, {scores['rows']:,}{of_split} rows")
    rows = []
    for name in next(iter(metrics.values()))["metrics"]:
        values = [with_interval(scores["metrics"][name]) for scores in metrics.values()]
        rows.append((metric_title(name), *values))
    return Table(head, rows)


def metric_title(name: str) -> str:
    """Return a metric's name as it is usually written.

    Args:
        name: As in `metrics.json`.
    """
    return _METRIC_TITLES.get(name, name.replace("_", " "))


def slices_table(slices: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the main metrics of each slice of the rows.

    Args:
        slices: As `metrics.json` holds them for a stage.
    """
    head = ("", "rows", *map(metric_title, _SLICE_METRICS))
    rows = []
    for name, parts in slices.items():
        for part, scores in parts.items():
            title = f"{_SLICE_TITLES.get(name, name)} {part or 'none'}"
            values = [with_interval(scores["metrics"][metric]) for metric in _SLICE_METRICS]
            rows.append((title, f"{scores['rows']:,}", *values))
    return Table(head, rows)


def adversarial_table(adversarial: Mapping[str, Any]) -> Table:
    """Return how often wrong rows that try to fool the verifier get the verdict True.

    Args:
        adversarial: As `metrics.json` holds it for the stage `test`.
    """
    shares = dict(adversarial["checks"])
    if adversarial["ordinary"] is not None:
        shares = {"wrong rows as they are": adversarial["ordinary"], **shares}
    rows = []
    for name, share in shares.items():
        rows.append((name, f"{share['rows']:,}", with_interval(share)))
    return Table(("wrong rows", "rows", "share of True"), rows)


def with_interval(metric: Mapping[str, Any]) -> str:
    """Return a metric and, in brackets, its interval; a dash where it is undefined.

    Args:
        metric: `value` and `interval`, as `metrics.json` holds them.
    """
    value, (low, high) = metric["value"], metric["interval"]
    return "-" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def splits_section(manifest: Mapping[str, Any]) -> Section:
    """State which rows each split holds.

    Args:
        manifest: See `splits.manifest`.
    """
    rows = []
    for name, split in manifest["splits"].items():
        overlap = f"{split['overlap']:.1%}" if "overlap" in split else ""
        rows.append((name, f"{split['rows']:,}", f"{split['true']:,}", overlap))
    drawn = "grouped by question" if manifest["plan"]["group_by_question"] else "drawn row by row"
    note = (
        f"The rows are {drawn}. Known question: share of the rows whose question also occurs in "
        "training rows."
    )
    return Section("Splits", [note, Table(("", "rows", "True", "known question"), rows)])


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)
