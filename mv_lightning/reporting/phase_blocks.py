"""What finished phases left, as blocks of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mv_lightning.artifacts.phase_results import STAGES, PhaseResults
from mv_lightning.reporting.blocks import Section, Table
from mv_lightning.training.settings import resume_locked_settings


def settings_tables(phases: Sequence[PhaseResults]) -> list[Table]:
    """Return the settings that decide a result.

    Args:
        phases: In order.
    """
    columns = {}
    for phase in phases:
        options = dict(_flat(phase.settings))
        named = {
            name: options.get(name) for name in ("model.base.name", "data.source", "data.prompt")
        }
        columns[phase.name] = named | resume_locked_settings(options)
    return phase_tables(columns)


def phase_tables(columns: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return what differs between phases with a column for each, and what all have in common once.

    Args:
        columns: Values by name, of each phase by its name.
    """
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [(name, *(_told(column.get(name)) for column in columns.values())) for name in names]
    common = [row[:2] for row in rows if len(set(row[1:])) == 1]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    tables = (
        Table(("", *columns), differing),
        Table(("", "all phases" if len(columns) > 1 else next(iter(columns))), common),
    )
    return [table for table in tables if table.rows]


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Return all metrics with their 95 % intervals, a column for each stage.

    Args:
        metrics: By stage, as `metrics.json` holds them; at least one.
    """
    head = ["", *(f"{STAGES[stage]}, {of['rows']:,} rows" for stage, of in metrics.items())]
    names = next(iter(metrics.values()))["metrics"]
    rows = [
        (metric_title(name), *(with_interval(of["metrics"][name]) for of in metrics.values()))
        for name in names
    ]
    return Table(head, rows)


def metric_title(name: str) -> str:
    """Return a metric's name as people write it.

    Args:
        name: As in `metrics.json`.
    """
    if name in ("f1", "mcc", "auroc", "ece"):
        return name.upper()
    return "Brier" if name == "brier" else name.replace("_", " ")


def with_interval(metric: Mapping[str, Any]) -> str:
    """Return a metric and, in brackets, its interval; a dash where it is not defined.

    Args:
        metric: `value` and `interval`, as `metrics.json` holds them.
    """
    value, (low, high) = metric["value"], metric["interval"]
    return "-" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def splits_section(drawn: Mapping[str, Any]) -> Section:
    """Tell which rows went where.

    Args:
        drawn: What `splits.manifest` made.
    """
    rows = [
        (
            name,
            f"{split['rows']:,}",
            f"{split['true']:,}",
            f"{split['overlap']:.1%}" if "overlap" in split else "",
        )
        for name, split in drawn["splits"].items()
    ]
    way = "grouped by question" if drawn["plan"]["group_by_question"] else "drawn row by row"
    told = f"The rows are {way}. Known question: share of the rows whose question also stands in training rows."
    return Section("Splits", [told, Table(("", "rows", "True", "known question"), rows)])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _told(value: Any) -> str:
    return "-" if value is None else str(value)
