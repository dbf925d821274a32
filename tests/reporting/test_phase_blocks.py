"""The tables of a run's page hold what the files hold, and a dash for what is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np

from mv_lightning.metrics.scores import score, score_slices
from mv_lightning.reporting.phase_blocks import (
    adversarial_table,
    metrics_table,
    phase_tables,
    slices_table,
    splits_section,
)

LABELS_N = np.array([True, False, True, True])
LOG_ODDS_N = np.array([1.0, -1.0, -2.0, 3.0])


def test_what_phases_share_is_stated_once() -> None:
    differing, common = phase_tables(
        {"phase 1": {"rows": 8, "seed": 1, "device": None}, "phase 2": {"rows": 9, "seed": 1}}
    )
    assert differing.head == ("", "phase 1", "phase 2") and differing.rows == [("rows", "8", "9")]
    assert common.head == ("", "all phases")
    assert common.rows == [("seed", "1"), ("device", "-")]
    (only,) = phase_tables({"phase 3": {"rows": 8}})
    assert only.head == ("", "phase 3") and only.rows == [("rows", "8")]


def test_metrics_have_intervals_and_undefined_ones_a_dash() -> None:
    scores = score(LABELS_N, LOG_ODDS_N)
    metrics = {
        "val": {"split_rows": 4, **scores.to_json()},
        "partial_test": {"split_rows": 1_250, **scores.to_json()},
    }
    table = metrics_table(metrics)
    assert table.head == ["", "validation, 4 rows", "part of the held-out test, 4 of 1,250 rows"]
    rows = {row[0]: row[1:] for row in table.rows}
    low, high = scores.intervals["accuracy"]
    assert rows["accuracy"] == (f"0.750 ({low:.3f} to {high:.3f})",) * 2
    assert rows["AUROC within a question"] == ("-", "-")
    assert {"F1", "MCC", "ECE", "Brier score", "balanced accuracy"} <= rows.keys()


def test_slices_are_named_by_what_they_share() -> None:
    slices: dict[str, Any] = {}
    for name, values in {
        "question": ["seen", "unseen"] * 2,
        "kind": ["", "slip", "slip", ""],
    }.items():
        parts = score_slices(np.array(values), LABELS_N, LOG_ODDS_N)
        slices[name] = {part: scores.to_json() for part, scores in parts.items()}
    table = slices_table(slices)
    assert [row[:2] for row in table.rows] == [
        ("question seen", "2"),
        ("question unseen", "2"),
        ("kind of error: none", "2"),
        ("kind of error: slip", "2"),
    ]
    assert table.head[2:] == (
        "accuracy",
        "balanced accuracy",
        "AUROC",
        "AUROC within a question",
        "ECE",
    )
    assert table.rows[0][2].startswith("0.500 (") and table.rows[0][3] == "-"


def test_shares_of_true_on_adversarial_rows() -> None:
    share = {"rows": 40, "value": 0.25, "interval": [0.1, 0.375]}
    ordinary = {"rows": 1200, "value": 0.5, "interval": [0.45, 0.55]}
    table = adversarial_table({"ordinary": ordinary, "checks": {"no solution": share}})
    assert table.rows == [
        ("wrong rows as they are", "1,200", "0.500 (0.450 to 0.550)"),
        ("no solution", "40", "0.250 (0.100 to 0.375)"),
    ]
    alone = adversarial_table({"ordinary": None, "checks": {"no solution": share}})
    assert len(alone.rows) == 1


def test_splits_state_their_overlap_with_training_questions() -> None:
    manifest = {
        "plan": {"group_by_question": False},
        "splits": {
            "train_1": {"rows": 1_200, "true": 600},
            "val_1": {"rows": 12, "true": 6, "overlap": 0.25},
        },
    }
    section = splits_section(manifest)
    note, table = section.blocks
    assert "drawn row by row" in str(note)
    assert table.rows == [("train_1", "1,200", "600", ""), ("val_1", "12", "6", "25.0%")]  # type: ignore[union-attr]
