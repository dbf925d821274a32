"""The tables and files of an experiment show its results."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mv_lightning.experiments.grid import Grid, make_cells
from mv_lightning.experiments.report import cost_table, results_table, write_results
from mv_lightning.experiments.results import CellResult, compare
from mv_lightning.versioning import read_versioned_json
from tests.experiments.made_results import make_result

AXES = {"model.lora.r": [4, 8], "data.splits.balance": [True, False]}
CELLS = make_cells(AXES, [])
GRID = Grid("A title", CELLS, CELLS[0], seeds=[1, 2], axes=AXES)
RIGHT, HALF = [3, -1, 2, -2], [3, -1, -2, 2]


@pytest.fixture(scope="module")
def cells() -> list[CellResult]:
    results = [make_result(CELLS[0], 1, HALF)]
    results += [make_result(cell, seed, RIGHT) for cell in CELLS[1:3] for seed in (1, 2)]
    return compare(GRID, results)


def test_tables(cells: list[CellResult]) -> None:
    reference, second, _ = results_table(GRID, cells).rows
    assert reference[:4] == ["r=4, balance=true (reference)", "1", "0.500", "-"]
    assert second[:3] == ["r=4, balance=false", "2", "1.000 (1.000 to 1.000)"]
    assert second[3].startswith("+0.500 (+0.000 to +")
    assert cost_table(cells).rows[0] == [
        "r=4, balance=true", "1.5", "2.0", "1,000", "0.750", "-",
    ]  # fmt: skip
    assert cost_table(cells).rows[1][1] == "2.2"  # the mean of 1.5 and 3


def test_files(cells: list[CellResult], tmp_path: Path) -> None:
    write_results(tmp_path, GRID, cells, {"r=8, balance=false, seed=1": "the loss is not finite"})
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.lora.r"], row["data.splits.balance"]) for row in rows] == [
        ("4", "true"), ("4", "false"), ("8", "true"),
    ]  # fmt: skip
    assert rows[0]["accuracy"] == "0.5" and rows[0]["accuracy_low"] == ""
    assert rows[1]["accuracy_difference"] == "0.5" and rows[1]["trained"] == "1000.0"
    stored = read_versioned_json(tmp_path / "results.json", "results")
    assert stored["reference"] == CELLS[0].label and len(stored["cells"]) == 3
    page = (tmp_path / "report.md").read_text()
    assert "# A title" in page and "the loss is not finite" in page
    assert "r=4, balance=true (reference)" in page
    assert "![accuracy, AUROC by data.splits.balance](balance.png)" in page
    for name in ("r.png", "balance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_listed_cells_have_one_figure(tmp_path: Path) -> None:
    listed = make_cells({}, [{"data.batch_size": 1}, {"data.batch_size": 2}])
    grid = Grid("Listed", listed, listed[0], seeds=[1])
    results = [make_result(cell, 1, RIGHT) for cell in listed]
    write_results(tmp_path, grid, compare(grid, results), {})
    assert (tmp_path / "cells.png").is_file()
    assert "Failed" not in (tmp_path / "report.md").read_text()
