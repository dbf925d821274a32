"""What a finished phase left: read back, and told as blocks of a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mv_lightning.data.sources import Source, load_source
from mv_lightning.data.splits import Splits, read_manifest
from mv_lightning.tasks.page import Section, Table
from mv_lightning.training.evaluation import METRICS
from mv_lightning.training.phase import PhaseFolder, deciding_settings, finished_phases

STAGES = {"val": "validation", "test": "sub-test"}
CONFIG = "config.yaml"
"""Beside a phase's curves: every setting of the run."""


@dataclass(frozen=True)
class Finished:
    """A finished phase."""

    folder: PhaseFolder
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    """As nested as in the configuration."""
    manifest: Mapping[str, Any]
    splits: Splits
    metrics: Mapping[str, Any]
    """By stage (`val`, `test`); empty for a phase that was not evaluated."""

    @property
    def name(self) -> str:
        """As people say it."""
        return f"phase {self.folder.phase}"


def read_phase(path: Path) -> Finished:
    """Read what a finished phase left.

    Args:
        path: Its folder, `RUN/phaseN`.

    Raises:
        ValueError: There is no finished phase, or a file of it is missing or damaged.
    """
    number = re.fullmatch(r"phase(\d+)", path.name)
    if number is None or not (path / "summary.json").is_file():
        raise ValueError(
            f"{path} is not the folder of a finished phase; needed is RUN/phaseN with a summary.json, which fit leaves"
        )
    folder = PhaseFolder(path.parent, int(number[1]))
    import yaml

    try:
        settings = yaml.safe_load((folder.logs / CONFIG).read_text(encoding="utf-8"))
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        metrics_file = path / METRICS
        metrics = json.loads(metrics_file.read_text(encoding="utf-8")) if metrics_file.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not whole: {error}; copy the run's folder again, {folder.logs} too") from error
    manifest, splits = read_manifest(path / "manifest.json")
    return Finished(folder, summary, settings, manifest, splits, metrics)


def read_run(run: Path) -> list[Finished]:
    """Read all finished phases of a run, in order.

    Args:
        run: The run's folder.

    Raises:
        ValueError: No phase is finished, or a file of one is missing or damaged.
    """
    phases = finished_phases(run)
    if not phases:
        raise ValueError(f"no finished phase in {run}; needed is the folder of a run (run.dir), see fit")
    return [read_phase(phase.path) for phase in phases]


def load_rows(phase: Finished) -> Source:
    """Load the source that a phase was trained from.

    Args:
        phase: Names the source, and knows its fingerprint.

    Raises:
        ValueError: The source cannot be read here, or its rows are others now.
    """
    name = phase.settings["data"]["source"]
    source = load_source(name)
    if source.fingerprint != phase.manifest["fingerprint"]:
        raise ValueError(
            f"{name} has other rows than {phase.name} was trained from (fingerprint {source.fingerprint[:16]}, then "
            f"{phase.manifest['fingerprint'][:16]}); put the file of that time back"
        )
    return source


def curve(folder: PhaseFolder, tag: str) -> Iterator[tuple[int, float]]:
    """Yield (step, value) of a curve in the order in which they were logged; a repeated step comes twice.

    Args:
        folder: A phase.
        tag: Name of the curve in TensorBoard.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in sorted(folder.logs.glob("events.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "images": 1})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            yield from ((event.step, event.value) for event in events.Scalars(tag))


def settings_tables(phases: Sequence[Finished]) -> list[Table]:
    """Return the settings that decide a result.

    Args:
        phases: In order.
    """
    columns = {}
    for phase in phases:
        options = dict(_flat(phase.settings))
        named = {name: options.get(name) for name in ("model.base.name", "data.source", "data.prompt")}
        columns[phase.name] = named | deciding_settings(options)
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
    rows = [(metric_title(name), *(with_interval(of["metrics"][name]) for of in metrics.values())) for name in names]
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
        (name, f"{split['rows']:,}", f"{split['true']:,}", f"{split['overlap']:.1%}" if "overlap" in split else "")
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
