"""The files of an evaluation are read back, and say which rows they take as independent."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.evaluations import read_evaluated, read_metrics, save_report
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.atomic import write_json
from mv_lightning.metrics.evaluation import evaluate
from mv_lightning.schema import EncodedRows, EvalOutputs, Split


def evaluation(encoded: EncodedRows, question_ids_N: np.ndarray | None) -> EvalOutputs:
    """Of all rows of `encoded`, some of them judged wrongly."""
    labels_N = encoded.labels_N == 1
    odds_N = np.where(labels_N, 1.0, -1.0) * np.random.default_rng(0).normal(1, 1, len(encoded))
    return EvalOutputs(encoded.rows_N, labels_N, odds_N, np.logaddexp(0, -odds_N), question_ids_N)


@pytest.mark.parametrize(
    ("groups", "resampled", "units"), [(None, "rows", 16), (4, "questions", 4)]
)
def test_it_is_said_what_the_intervals_resample(
    groups: int | None, resampled: str, units: int, encoded: EncodedRows, tmp_path: Path
) -> None:
    found = evaluate(
        evaluation(encoded, None if groups is None else np.arange(16) % groups),
        Split(encoded, np.arange(16)),
    )
    save_report(PhaseFolder(tmp_path, 1), "val", found)
    kept = json.loads((PhaseFolder(tmp_path, 1).metrics).read_text())["val"]
    assert (kept["resampled"], kept["units"]) == (resampled, units)
    slices = [part for parts in kept["slices"].values() for part in parts.values()]
    assert slices and all(
        part["resampled"] == resampled and part["units"] <= part["rows"] for part in slices
    )
    assert f"intervals over {units} {resampled}" in found.table()


def part_of(outputs: EvalOutputs, rows: int) -> EvalOutputs:
    names = ("rows_N", "labels_N", "log_odds_N", "losses_N")
    return EvalOutputs(*(getattr(outputs, name)[:rows] for name in names))


def test_a_partial_evaluation_says_what_it_covers_and_never_replaces_a_full_one(
    encoded: EncodedRows, tmp_path: Path
) -> None:
    folder = PhaseFolder(tmp_path, 1)
    outputs = evaluation(encoded, None)
    full, part = (
        evaluate(rows, Split(encoded, np.arange(16))) for rows in (outputs, part_of(outputs, 5))
    )
    assert full.is_complete and not part.is_complete
    assert full.table().startswith("16 rows,") and part.table().startswith("5 of 16 rows,")
    full_file = save_report(folder, "val", full)
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    metrics = read_metrics(folder)["val"]

    part_file = save_report(folder, "val", part)
    stored = read_metrics(folder)
    assert stored["val"] == metrics and (metrics["rows"], metrics["split_rows"]) == (16, 16)
    assert (stored["partial_val"]["rows"], stored["partial_val"]["split_rows"]) == (5, 16)
    assert len(read_evaluated(full_file).ids) == 16 and len(read_evaluated(part_file).ids) == 5
    for file, content in before.items():
        assert file == folder.metrics or file.read_bytes() == content
    save_report(folder, "test", full)
    assert set(read_metrics(folder)) == {"val", "partial_val", "test"}


def test_evaluated_rows_are_read_back_in_row_order(encoded: EncodedRows, tmp_path: Path) -> None:
    outputs = evaluation(encoded, None)
    order_N = np.random.default_rng(3).permutation(16)
    shuffled = EvalOutputs(
        *(
            getattr(outputs, name)[order_N]
            for name in ("rows_N", "labels_N", "log_odds_N", "losses_N")
        )
    )
    split = Split(encoded, np.arange(16), ids=[f"q,{row}" for row in range(16)])
    path = save_report(PhaseFolder(tmp_path, 2), "test", evaluate(shuffled, split))
    assert path == tmp_path / "phase2" / "test.csv"
    evaluated = read_evaluated(path)
    assert list(evaluated.ids) == split.ids
    for name in ("rows_N", "labels_N", "log_odds_N"):
        assert np.array_equal(getattr(evaluated, name), getattr(outputs, name))


def test_evaluations_are_joined_by_id(encoded: EncodedRows, tmp_path: Path) -> None:
    """Of the same rows, whose numbers in the source changed."""
    outputs = evaluation(encoded, None)
    ids = [f"q{row}" for row in range(16)]
    one = save_report(
        PhaseFolder(tmp_path, 1), "val", evaluate(outputs, Split(encoded, np.arange(16), ids=ids))
    )
    head, *lines = one.read_text().splitlines()
    moved = [
        re.sub(r"^(q\d+),(\d+)", lambda match: f"{match[1]},{99 - int(match[2])}", line)
        for line in lines
    ]
    other = tmp_path / "other.csv"
    other.write_text("\n".join([head, *moved]) + "\n")
    first, second = read_evaluated(one), read_evaluated(other)
    assert list(second.ids) == ids[::-1]
    assert np.array_equal(second.log_odds_of(first), first.log_odds_N)
    flipped = [
        line.replace("True", "x").replace("False", "True").replace("x", "False") for line in lines
    ]
    other.write_text("\n".join([head, *flipped]) + "\n")
    with pytest.raises(ValueError, match="has other rows or labels than"):
        read_evaluated(other).log_odds_of(first)
    other.write_text("\n".join([head, *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"has other rows .*1 IDs of .* are not in .*: q0"):
        read_evaluated(other).log_odds_of(first)


def test_an_older_metrics_file_is_refused(tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path, 1)
    assert read_metrics(folder) == {}
    write_json(folder.metrics, {"val": {}})
    with pytest.raises(ValueError, match=r"metrics\.json \(the metrics of a phase\).*got none"):
        read_metrics(folder)
