"""The average of two phases is an adapter like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mv_lightning.artifacts.calibrations import read_calibration
from mv_lightning.artifacts.phase_results import read_phase
from mv_lightning.cli import main
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.testing import tiny_options
from mv_lightning.verifier import Verifier
from tests.conftest import ROOT

WEIGHTS = Path("adapter") / "adapter_model.safetensors"


def scaled(phase: Path, factor: float, folder: Path) -> Path:
    """Copy a phase with its updates multiplied."""
    shutil.copytree(phase, folder)
    weights = {
        name: factor * tensor if "lora_B" in name else tensor
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_the_average_is_a_verifier(
    trained_phase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, strong = tmp_path / "average", scaled(trained_phase, 1_000.0, tmp_path / "phase2")
    main(["average", str(trained_phase), str(strong / "adapter"), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "adapters averaged: 2; " in printed and f"--model.init_from {out}" in printed
    average = Verifier.load(out)
    assert average.calibration == Calibration()
    rows = load_source("synthetic:6", split="test").table.to_list()
    odds_N = average.log_odds(rows)
    expected = Verifier.load(scaled(trained_phase, 500.5, tmp_path / "expected"))
    np.testing.assert_allclose(odds_N, expected.raw_log_odds(expected.encode(rows)), atol=1e-3)
    member = Verifier.load(strong)
    assert not np.allclose(odds_N, member.raw_log_odds(member.encode(rows)), atol=0.05)


def test_a_phase_of_no_steps_validates_and_calibrates_the_average(
    trained_phase: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    average, run = tmp_path / "average", tmp_path / "run"
    strong = scaled(trained_phase, 1_000.0, tmp_path / "phase2")
    main(["average", str(trained_phase), str(strong), "--out", str(average)])
    options = [*tiny_options(tiny_folder, run), "--trainer.max_steps", "0"]
    config = str(ROOT / "configs/phase2.yaml")
    main(["fit", "--config", config, *options, "--model.init_from", str(average)])
    phase = read_phase(run / "phase2")
    assert phase.summary["steps"] == phase.summary["rows"] == 0
    assert phase.summary["init_from"]["folder"] == str(average)
    assert len(phase.splits.val[1]) == phase.summary["validation_rows"] == 8
    before, after = (
        load_file(average / WEIGHTS.name),
        load_file(phase.folder.adapter / WEIGHTS.name),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_calibration(phase.folder.adapter) is not None
    main(["export", str(phase.folder.path), "--out", str(tmp_path / "out"), "--max-flips", "1"])
    assert (tmp_path / "out" / WEIGHTS.name).is_file()


def test_only_an_average_is_replaced(
    trained_phase: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, second = tmp_path / "average", scaled(trained_phase, 3.0, tmp_path / "phase2")
    for member in (second, out):
        main(["average", str(trained_phase), str(member), "--out", str(out)])
    stored = (second / WEIGHTS).read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main(["average", str(trained_phase), str(out), "--out", str(second)])
    assert f"--out {second} exists and is not an average" in capsys.readouterr().err
    assert (second / WEIGHTS).read_bytes() == stored
