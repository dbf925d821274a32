"""A learning curve of a tiny model, from the command to the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.cli import main
from mv_lightning.data.splits import read_manifest
from mv_lightning.versioning import read_versioned_json
from tests.conftest import ROOT
from tests.experiments.made_results import experiment_options


def command(base: Path, folder: Path, *more: str) -> list[str]:
    given = experiment_options(base, "--data.splits.rows", "--data.splits.val_fraction")
    config = str(ROOT / "configs/phase1.yaml")
    own = ["--folder", str(folder / "curve"), "--val-rows", "4", "--seeds", "7", "--goals", "0.99"]
    # Validation rows are enough to draw a curve from.
    given[given.index("--data.splits.test_rows") + 1] = "0"
    return ["learning-curve", "--rows", "8", "12", "24", *own, "--config", config, *given, *more]


@pytest.mark.slow
def test_the_curve_of_a_tiny_model(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(tiny_folder, tmp_path, "--dry-run"))
    assert "0 of 3 runs are done" in capsys.readouterr().out
    main(command(tiny_folder, tmp_path))
    printed = capsys.readouterr().out
    assert "24 rows (reference)" in printed and "training rows needed" in printed
    stored = read_versioned_json(tmp_path / "curve" / "results.json", "results")
    rows = []
    for cell in stored["cells"]:
        _, splits = read_manifest(Path(cell["runs"][0]["folder"]) / "manifest.json")
        rows.append(set(splits.train[0].tolist()))
    assert [len(numbers) for numbers in rows] == [8, 12, 24] and rows[0] < rows[1] < rows[2]
    page = (tmp_path / "curve" / "report.md").read_text()
    assert "## Curve" in page and "![accuracy against training rows](accuracy.png)" in page
    curve = read_versioned_json(tmp_path / "curve" / "learning_curve.json", "curve")
    assert [point["rows"] for point in curve["accuracy"]["points"]] == [8, 12, 24]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "0"], "--rows and --val-rows of at least 1"),
        (["--val-rows", "5"], "even numbers for --rows and --val-rows"),
        (["--goals", "85"], "expected --goals between 0 and 1"),
        (["--data.splits.rows", "40"], "cells of the grid do not set"),
    ],
)
def test_mistakes_are_told(
    options: list[str],
    message: str,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(command(tiny_folder, tmp_path, *options))
    assert end.value.code == 2 and message in capsys.readouterr().err
