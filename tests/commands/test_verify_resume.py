"""The proof of a resume: it holds for a sound run, and finds what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import compare_phases
from mv_lightning.testing import run_command, tiny_options
from mv_lightning.training.checkpoint_files import checkpoints
from tests.conftest import ROOT


def test_a_sound_run(tiny_folder: Path, tmp_path: Path) -> None:
    args = [
        *("verify-resume", "--steps", "5", "--kills", "2", "--folder", str(tmp_path / "both")),
        *("--config", "configs/phase1.yaml", *tiny_options(tiny_folder, tmp_path / "unused")),
    ]
    printed = run_command(*args)
    assert printed.count("killed after step") == 2
    assert "the resumed run equals the uninterrupted one, bit for bit" in printed
    assert not (tmp_path / "unused").exists()
    straight, killed = (PhaseFolder(tmp_path / "both" / name, 1) for name in ("straight", "killed"))
    assert not any(compare_phases(straight, killed).values())

    path = checkpoints(killed.checkpoints)[0]
    state = torch.load(path, weights_only=True)
    name, weight = next(iter(state["state_dict"].items()))
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    state["optimizer_states"][0]["state"][0]["step"] += 1
    torch.save(state, path)
    found = {
        part: differing for part, differing in compare_phases(straight, killed).items() if differing
    }
    assert found == {
        "state_dict": [f"state_dict {name}"],
        "optimizer_states": ["optimizer_states 0 state 0 step"],
    }


@pytest.mark.parametrize("options", [("--kills", "0"), ("--steps", "3", "--kills", "3")])
def test_numbers_that_prove_nothing(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["verify-resume", *options])
    assert (
        end.value.code == 2
        and "at least one kill and more steps than kills" in capsys.readouterr().err
    )


def test_a_run_that_fails_says_why(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny_options(tiny_folder, tmp_path)
    with pytest.raises(SystemExit) as end:
        main(
            [
                "verify-resume",
                "--config",
                str(ROOT / "configs/phase1.yaml"),
                *options,
                "--data.source",
                "no.csv",
            ]
        )
    error = capsys.readouterr().err
    assert end.value.code == 2 and "ended with status 2" in error and "no.csv" in error
