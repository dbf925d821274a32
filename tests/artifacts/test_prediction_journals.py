"""Journals of one prediction are read together; those of another are renamed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.prediction_journals import PredictionJournals

IDENTITY = {"adapter": "a", "max_length": 300}


def test_rows_of_all_processes_and_all_starts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [(0, [3, 1], 1.5), (1, [2], 4.0), (0, [0], 2.0)]
    for rank, rows, seconds in lines:
        journal = PredictionJournals(folder, IDENTITY).open(rank)
        odds = [row / 8 for row in rows]
        journal.append({"rows": rows, "log_odds": odds, "seconds": seconds})
        journal.close()
    journals = PredictionJournals(folder, IDENTITY)
    journals.rename_others()
    expected = [0.0, 0.125, 0.25, 0.375, math.nan]
    assert np.array_equal(journals.log_odds(5), expected, equal_nan=True)
    assert journals.seconds() == 4.0  # of the slower process; the other took 3.5 in two starts
    journals.delete()
    assert folder.journals() == []


def test_other_predictions_are_renamed_with_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    PredictionJournals(folder, IDENTITY).open(0).close()
    folder.journal(1).touch()  # killed before its first line was complete
    PredictionJournals(folder, {**IDENTITY, "max_length": 200}).rename_others()
    assert "max_length was 300, is 200" in capsys.readouterr().out
    assert folder.journals() == [] and (tmp_path / "predictions.rank0.part.1").is_file()
