"""What a finished phase left, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.evaluations import read_metrics
from mv_lightning.artifacts.layout import PARTIAL_PREFIX, PhaseFolder, RunFolder, phase_folder
from mv_lightning.data.mixture import load_sources
from mv_lightning.data.sources import Source
from mv_lightning.data.splits import Splits, read_manifest
from mv_lightning.versioning import read_versioned_json

STAGES = {
    "val": "validation",
    "test": "held-out test",
    f"{PARTIAL_PREFIX}val": "part of validation",
    f"{PARTIAL_PREFIX}test": "part of the held-out test",
}
"""The evaluation stages, by their names in files."""


@dataclass(frozen=True)
class PhaseResults:
    """A finished phase."""

    folder: PhaseFolder
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    """As nested as in the configuration."""
    manifest: Mapping[str, Any]
    splits: Splits
    metrics: Mapping[str, Any]
    """By stage (a key of `STAGES`); empty for a phase that was not evaluated."""

    @property
    def name(self) -> str:
        """For messages and pages: "phase 2"."""
        return f"phase {self.folder.phase}"


def read_phase(path: Path) -> PhaseResults:
    """Read what a finished phase left.

    Args:
        path: Its folder, `RUN/phaseN`.

    Raises:
        ValueError: There is no finished phase, or a file of it is missing, damaged or of another
            format version.
    """
    folder = phase_folder(path)
    if folder is None or not folder.summary.is_file():
        raise ValueError(
            f"{path} is not the folder of a finished phase. Expected RUN/phaseN with the "
            "summary.json that fit writes last"
        )
    import yaml

    try:
        settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is incomplete: {error}. Copy the run's folder again") from error
    summary = read_summary(folder)
    metrics = read_metrics(folder)
    manifest, splits = read_manifest(folder.manifest)
    return PhaseResults(folder, summary, settings, manifest, splits, metrics)


def read_summary(folder: PhaseFolder) -> Mapping[str, Any]:
    """Return the `summary.json` of a finished phase.

    Args:
        folder: The phase's folder.

    Raises:
        FileNotFoundError: The phase is not finished.
        ValueError: The file is damaged or of another format version.
    """
    return read_versioned_json(folder.summary, "the summary of a phase")


def read_run(run: Path) -> list[PhaseResults]:
    """Read all finished phases of a run, in order.

    Args:
        run: The run's folder.

    Raises:
        ValueError: No phase is finished, or a file of one is missing or damaged.
    """
    phases = RunFolder(run).finished_phases()
    if not phases:
        raise ValueError(
            f"no finished phase in {run}. Expected the folder of a run (run.dir): fit a phase first"
        )
    return [read_phase(phase.path) for phase in phases]


def load_rows(phase: PhaseResults) -> Source:
    """Load the source that a phase was trained from.

    Args:
        phase: States the source and its fingerprint.

    Raises:
        ValueError: The source cannot be read here, or its rows are others now.
    """
    source = load_sources(phase.settings["data"]["source"])
    expected = phase.manifest["fingerprint"]
    if source.fingerprint != expected:
        raise ValueError(
            f"{source.name} does not hold the rows that {phase.name} was trained from: expected "
            f"fingerprint {expected[:16]}, got {source.fingerprint[:16]}. Restore the file of that "
            "time"
        )
    return source
