"""Cells are compared with the reference, seed by seed, on the same rows."""

from __future__ import annotations

import math

import pytest

from mv_lightning.experiments.grid import Grid, make_cells
from mv_lightning.experiments.results import compare
from tests.experiments.made_results import make_result

FIRST, SECOND = make_cells({"model.lora.r": [4, 8]}, [])
GRID = Grid("title", [FIRST, SECOND], FIRST, seeds=[1, 2, 3])
RIGHT, HALF, WRONG = [3, -1, 2, -2], [3, -1, -2, 2], [-3, 1, -2, 2]


def test_means_and_differences_by_hand() -> None:
    results = [
        make_result(FIRST, 1, HALF),
        make_result(FIRST, 2, HALF, first_row=10),
        make_result(SECOND, 1, RIGHT),
        make_result(SECOND, 2, HALF, first_row=10),
        make_result(SECOND, 3, WRONG, first_row=20),  # the reference is not done with this seed
    ]
    first, second = compare(GRID, results)
    assert (first.cell, second.cell) == (FIRST, SECOND) and not first.differences
    accuracy = second.means["accuracy"]
    assert accuracy.value == pytest.approx(0.5)
    # Accuracies 1, 0.5 and 0: standard deviation 0.5, and 4.30265 x 0.5 / sqrt(3).
    assert accuracy.high - accuracy.value == pytest.approx(4.30265 * 0.5 / math.sqrt(3), rel=1e-4)
    assert second.differences["accuracy"].value == pytest.approx((0.5 + 0) / 2)
    # Seed 1 has two questions, of which one differs, so 0, 1/2 or 1 of its rows do.
    assert second.differences["accuracy"].low == 0
    assert 0.25 < second.differences["accuracy"].high <= 0.5
    assert second.mean("minutes") == pytest.approx(1.5 * 2)
    stored = second.to_json()
    assert [run["seed"] for run in stored["runs"]] == [1, 2, 3]
    assert stored["runs"][0]["last_evaluation_loss"] is None
    assert stored["differences"]["accuracy"]["value"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "other",
    [
        make_result(SECOND, 1, RIGHT, first_row=2),
        make_result(SECOND, 1, RIGHT, labels_N=[False, True, True, False]),
        make_result(SECOND, 1, RIGHT[:3], labels_N=[True, False, True]),
    ],
)
def test_other_rows_have_no_difference(other: object) -> None:
    cells = compare(GRID, [make_result(FIRST, 1, HALF), other])  # type: ignore[list-item]
    assert [cell.differences for cell in cells] == [{}, {}]


def test_cells_without_results_are_left_out() -> None:
    assert compare(GRID, []) == []
    (only,) = compare(GRID, [make_result(SECOND, 2, RIGHT)])
    assert only.cell == SECOND and not only.differences and math.isnan(only.means["auroc"].low)
