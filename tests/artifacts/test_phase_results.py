"""A finished phase is read back from its files, or refused with the file that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.artifacts.phase_results import load_rows, read_phase, read_run
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan, manifest, plan_splits, write_manifest
from mv_lightning.versioning import write_versioned_json

SOURCE = "synthetic:40"
PLAN = SplitPlan(phases=2, rows=12, val_fraction=0.34, test_rows=4, seed=5)


def leave_phase(run: Path, phase: int) -> PhaseFolder:
    folder = PhaseFolder(run, phase)
    source = load_source(SOURCE)
    assert source.labels_N is not None
    splits = plan_splits(source.labels_N, None, PLAN)
    described = manifest(source.fingerprint, PLAN, splits, source.labels_N, source.question_ids_N)
    write_manifest(folder.manifest, described, splits)
    folder.config.write_text(f"data:\n  source: {SOURCE}\n")
    write_versioned_json(folder.summary, {"phase": phase, "steps": 7})
    return folder


def test_a_phase_is_read_back(tmp_path: Path) -> None:
    folder = leave_phase(tmp_path, 2)
    phase = read_phase(folder.path)
    assert phase.folder == folder and phase.name == "phase 2"
    assert phase.summary == {"phase": 2, "steps": 7}
    assert phase.settings == {"data": {"source": SOURCE}} and phase.metrics == {}
    assert [len(rows_N) for rows_N in phase.splits.train] == [8, 8]
    write_versioned_json(folder.metrics, {"val": {"loss": 0.5}})
    assert read_phase(folder.path).metrics == {"val": {"loss": 0.5}}


def test_a_run_is_its_finished_phases_in_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished phase in"):
        read_run(tmp_path)
    for number in (2, 1):
        leave_phase(tmp_path, number)
    PhaseFolder(tmp_path, 3).checkpoints.mkdir(parents=True)
    assert [phase.name for phase in read_run(tmp_path)] == ["phase 1", "phase 2"]


@pytest.mark.parametrize("name", ["summary.json", "manifest.json", "metrics.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format_version": 0}', "got 0"),
        (b"{}", "got none"),
        (b"[1]", "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_a_file_of_another_version_or_damaged_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    folder = leave_phase(tmp_path, 1)
    (folder.path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        read_phase(folder.path)


def test_what_is_no_finished_phase_is_refused(tmp_path: Path) -> None:
    folder = leave_phase(tmp_path, 1)
    folder.config.write_text("a: [")
    with pytest.raises(ValueError, match="phase1 is incomplete"):
        read_phase(folder.path)
    folder.config.unlink()
    with pytest.raises(ValueError, match="phase1 is incomplete"):
        read_phase(folder.path)
    folder.summary.unlink()
    for path in (folder.path, tmp_path):
        with pytest.raises(ValueError, match="is not the folder of a finished phase"):
            read_phase(path)


def test_the_rows_of_training_are_loaded_and_no_others(tmp_path: Path) -> None:
    folder = leave_phase(tmp_path, 1)
    source = load_rows(read_phase(folder.path))
    expected = load_source(SOURCE).labels_N
    assert source.labels_N is not None and expected is not None
    assert np.array_equal(source.labels_N, expected)
    folder.config.write_text("data:\n  source: synthetic:42\n")
    with pytest.raises(ValueError, match="synthetic:42 does not hold the rows that phase 1 was"):
        load_rows(read_phase(folder.path))
