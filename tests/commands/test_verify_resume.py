"""The proof of a resume: it holds for a sound run, and finds what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.commands import verify_resume
from mv_lightning.commands.verify_resume import NOT_REPRODUCIBLE, RESUME_DIFFERS
from mv_lightning.experiments.resume_check import compare_phases
from mv_lightning.testing import run_command, tiny_options
from mv_lightning.training.checkpoint_files import checkpoints
from mv_lightning.training.cli import parse
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
    state["MixedPrecision"] = {"scale": 65_536.0}
    torch.save(state, path)
    found = {
        part: differing for part, differing in compare_phases(straight, killed).items() if differing
    }
    assert found == {
        "state_dict": [f"state_dict {name}"],
        "optimizer_states": ["optimizer_states 0 state 0 step"],
        "MixedPrecision": ["MixedPrecision"],
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


@pytest.mark.parametrize(
    ("repeated", "verdict"),
    [({"state_dict": []}, RESUME_DIFFERS), ({"state_dict": ["x"]}, NOT_REPRODUCIBLE)],
)
def test_a_machine_that_differs_by_itself_is_not_blamed_on_the_resume(
    repeated: dict[str, list[str]],
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[str] = []
    found = {"killed": {"state_dict": ["x"]}, "repeated": repeated}
    monkeypatch.setattr(verify_resume, "train", lambda args, phase: trained.append(phase.run.name))
    monkeypatch.setattr(verify_resume, "train_with_kills", lambda args, phase, *rest: None)
    monkeypatch.setattr(verify_resume, "compare_phases", lambda one, other: found[other.run.name])
    with pytest.raises(SystemExit) as end:
        main(["verify-resume", "--folder", str(tmp_path), "--trainer.accelerator", "cpu"])
    assert end.value.code == 1 and trained == ["straight", "repeated"]
    assert verdict in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--trainer.accelerator", "gpu"], True),
        (["--trainer.accelerator", "gpu", "--trainer.deterministic", "warn"], False),
        (["--trainer.accelerator", "cpu"], False),
    ],
)
def test_deterministic_kernels_are_asked_for_on_a_gpu(
    options: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = parse(["fit", *options])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    given = verify_resume._fit_options(settings, 5)
    assert ("--trainer.deterministic" in given) == expected
    assert given[:2] == ["--trainer.max_steps", "5"]
