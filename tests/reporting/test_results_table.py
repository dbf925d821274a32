"""The table of a run shows every finished phase once, and what was not measured as a dash."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.reporting.results_table import results_table
from mv_lightning.versioning import write_versioned_json


def leave_phase(run: Path, phase: int, **values: float | None) -> None:
    folder = PhaseFolder(run, phase)
    cost = {"rows": 19_800, "steps": 2_475, "minutes": 61.25, "peak_memory_gb": 12.34}
    write_versioned_json(
        folder.summary, {"phase": phase, "adapter": str(folder.adapter), **cost, **values}
    )


def line(table: str, start: str) -> list[str]:
    (found,) = (line for line in table.splitlines() if line.strip().startswith(start))
    return found.split()


def test_phases_stand_in_order_with_what_they_cost(tmp_path: Path) -> None:
    for phase in (10, 2, 1):
        leave_phase(tmp_path, phase, val_loss=0.5, val_acc=0.8125, val_auroc=None)
    table = results_table(tmp_path)
    assert line(table, "phase 2") == [
        "phase",
        "2",
        "19,800",
        "2,475",
        "61.2",
        "12.3",
        "0.500",
        "0.812",
        "-",
    ]
    assert [row.split()[1] for row in table.splitlines() if row.strip().startswith("phase")] == [
        "1",
        "2",
        "10",
    ]
    assert len({len(row) for row in table.splitlines()[:5]}) == 1
    assert (
        str(tmp_path / "phase10" / "adapter") in table
        and f"--logdir {tmp_path / 'tensorboard'}" in table
    )


def test_a_phase_that_was_not_validated_has_dashes(tmp_path: Path) -> None:
    leave_phase(tmp_path, 1)
    assert line(results_table(tmp_path), "phase 1")[-3:] == ["-", "-", "-"]


def test_a_phase_that_was_moved_aside_or_is_not_finished_is_left_out(tmp_path: Path) -> None:
    leave_phase(tmp_path, 1)
    (tmp_path / "phase1").rename(tmp_path / "phase1.1")
    leave_phase(tmp_path, 1, val_acc=0.75)
    (tmp_path / "phase2" / "checkpoints").mkdir(parents=True)
    table = results_table(tmp_path)
    assert "0.750" in line(table, "phase 1") and "phase 2" not in table


@pytest.mark.parametrize(
    ("accuracy", "told"), [({"accuracy": 0.8512}, "accuracy 0.851 on"), ({}, "predicted")]
)
def test_the_prediction_has_an_accuracy_where_there_are_labels(
    accuracy: dict[str, float], told: str, tmp_path: Path
) -> None:
    leave_phase(tmp_path, 1)
    cost = {
        "rows": 10_000,
        "seconds": 90,
        "peak_memory_gb": 6.0,
        "submission": str(tmp_path / "submission.csv"),
    }
    write_versioned_json(tmp_path / "prediction.json", {**cost, **accuracy})
    assert f"test split: {told} 10,000 rows, 1.5 min, peak 6.0 GB" in results_table(tmp_path)
    missing = {"missing": {"rows": 3, "verdict": False, "examples": ["7"]}}
    write_versioned_json(tmp_path / "prediction.json", {**cost, **accuracy, **missing})
    assert f"{told} 10,000 rows (3 too long for a probability), 1.5" in results_table(tmp_path)


def test_nothing_is_finished(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished phase in"):
        results_table(tmp_path)
