"""A run's folder names its phases, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.artifacts.layout import PhaseFolder, RunFolder, phase_folder


def test_finished_phases_are_those_with_a_summary_in_order(tmp_path: Path) -> None:
    for name in ("phase10", "phase2", "phase1", "phase1.1", "phases", "phase", "old-phase3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").touch()
    (tmp_path / "phase3").mkdir()
    assert RunFolder(tmp_path).finished_phases() == [
        PhaseFolder(tmp_path, number) for number in (1, 2, 10)
    ]


@pytest.mark.parametrize("name", ["phase", "phase1.1", "phase1x", "Phase1", "phase-1"])
def test_other_folders_are_no_phases(name: str) -> None:
    assert phase_folder(Path("run") / name) is None


def test_a_phase_is_named_by_its_path() -> None:
    folder = phase_folder(Path("run/phase12"))
    assert folder == PhaseFolder(Path("run"), 12) and folder.path == Path("run/phase12")
    assert folder.tensorboard == Path("run/tensorboard/phase12")
    assert folder.checkpoint(40) == Path("run/phase12/checkpoints/step-0000040.ckpt")


def test_a_renamed_phase_leaves_its_place_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = PhaseFolder(tmp_path, 1)
    for path in (folder.path, folder.tensorboard):
        path.mkdir(parents=True)
        (path / "file").touch()
    folder.rename_existing()
    assert not folder.path.exists() and not folder.tensorboard.exists()
    assert (tmp_path / "phase1.1/file").exists() and (
        tmp_path / "tensorboard/phase1.1/file"
    ).exists()
    assert capsys.readouterr().out.count("was renamed to") == 2


def test_journals_are_found_for_every_process(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for rank in (1, 0):
        run.journal(rank).touch()
    run.submission.touch()
    assert run.journals() == [run.journal(0), run.journal(1)]
