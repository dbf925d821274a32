"""A grid is run, skipped, resumed and compared, on a tiny model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.model.adapter_files import WEIGHTS
from mv_lightning.training.checkpoint_files import checkpoints
from mv_lightning.versioning import read_versioned_json
from tests.conftest import ROOT
from tests.experiments.made_results import experiment_options

GRID = f"""
title: Ranks
base: [{ROOT / "configs/phase1.yaml"}]
axes: {{model.lora.r: [8, 32]}}
seeds: [1]
options: {{trainer.max_steps: 4}}
"""


def command(folder: Path, base: Path, grid: str, *more: str) -> list[str]:
    file = folder / "grid.yaml"
    file.write_text(grid)
    given = experiment_options(base, "--model.lora.r")
    return ["ablate", str(file), *given, "--folder", str(folder / "experiment"), *more]


def trained(printed: str) -> list[str]:
    """The runs that were started, in order."""
    return re.findall(r"^\[\d of \d\] (.*?)(?: \(about.*)?$", printed, re.MULTILINE)


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished grid, which tests only add to."""
    folder = tmp_path_factory.mktemp("grid")
    main(command(folder, tiny_folder, GRID))
    return folder


def test_a_finished_grid_is_left_alone_and_compared_again(
    finished: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = finished / "experiment"
    before = (experiment / "results.json").read_bytes()
    stored = read_versioned_json(experiment / "results.json", "results")
    first, second = stored["cells"]
    assert [run["seed"] for run in first["runs"]] == [1] and not first["differences"]
    assert (first["runs"][0]["trained_parameters"], second["runs"][0]["trained_parameters"]) == (
        32_768,
        131_072,
    )
    assert first["runs"][0]["first_evaluation_loss"] > 0
    metrics = read_versioned_json(Path(second["runs"][0]["folder"]) / "metrics.json", "metrics")
    for name in ("accuracy", "auroc", "log_loss"):
        assert second["runs"][0][name] == metrics["test"]["metrics"][name]["value"]
    means = [cell["means"]["accuracy"]["value"] for cell in (first, second)]
    assert second["differences"]["accuracy"]["value"] == pytest.approx(means[1] - means[0])

    main(command(finished, tiny_folder, GRID))
    printed = capsys.readouterr().out
    assert not trained(printed) and "r=8 (reference)" in printed and "report.html" in printed
    assert (experiment / "results.json").read_bytes() == before


def test_a_killed_grid_continues_with_the_same_result(
    finished: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "experiment", tmp_path / "experiment")
    stored = read_versioned_json(tmp_path / "experiment" / "results.json", "results")
    runs = [Path(run["folder"]).parent.name for cell in stored["cells"] for run in cell["runs"]]
    untested, killed = (PhaseFolder(tmp_path / "experiment" / name, 1) for name in runs)
    wanted = (killed.adapter / WEIGHTS).read_bytes()
    test_rows = untested.evaluated_rows("test").read_bytes()
    killed.summary.unlink()
    shutil.rmtree(killed.adapter)
    checkpoints(killed.checkpoints)[0].unlink()
    for phase in (killed, untested):
        phase.evaluated_rows("test").unlink()
    main(command(tmp_path, tiny_folder, GRID, "--dry-run"))
    printed = capsys.readouterr().out
    assert "interrupted at step 2" in printed and "trained, not evaluated" in printed
    assert "0 of 2 runs are done" in printed and not (killed.adapter / WEIGHTS).exists()
    assert re.search(r"r=32, seed=1 +interrupted at step 2 +4 +24 +131,072 +0\.5", printed)

    main(command(tmp_path, tiny_folder, GRID))
    printed = capsys.readouterr().out
    assert trained(printed) == ["r=8, seed=1", "r=32, seed=1"] and "was interrupted" in printed
    assert (killed.adapter / WEIGHTS).read_bytes() == wanted
    assert untested.evaluated_rows("test").read_bytes() == test_rows


@pytest.mark.slow
def test_added_cells_run_and_failed_ones_are_told(
    finished: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "experiment", tmp_path / "experiment")
    grid = GRID.replace(
        "axes: {model.lora.r: [8, 32]}",
        "cells: [{model.lora.r: 8}, {data.max_length: 5}, {model.lora.r: 16}]",
    )
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, tiny_folder, grid))
    printed, error = capsys.readouterr()
    assert end.value.code == 1
    assert trained(printed) == ["max_length=5, seed=1", "r=16, seed=1"]
    assert "max_length=5, seed=1: " in error and "rows do not fit into max_length=5" in error
    stored = read_versioned_json(tmp_path / "experiment" / "results.json", "results")
    assert [cell["label"] for cell in stored["cells"]] == ["r=8", "r=16"]
    assert list(stored["failures"]) == ["max_length=5, seed=1"]


def test_no_grid_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["--folder", "x"]):
        with pytest.raises(SystemExit) as end:
            main(["ablate", *args])
        assert end.value.code == 2
