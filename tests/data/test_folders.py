"""The files of a split, or a message that names the choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.data.sources import load_source
from tests.data.files import ROWS, write_csv, write_jsonl


def test_a_folder_gives_the_split_asked_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "test.csv", ROWS[:2])
    (tmp_path / "sample_submission.csv").write_text("ID,is_correct\n0,True\n")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train.csv").write_text("damaged")
    assert load_source(str(tmp_path)).counts["rows"] == 5
    assert load_source(str(tmp_path), split="test").counts["rows"] == 2
    with pytest.raises(
        ValueError, match=r"expected files named after the split 'val'.*'test\.csv', 'train\.csv'"
    ):
        load_source(str(tmp_path), split="val")


def test_a_folder_without_split_names_is_train(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "latest.jsonl", ROWS)
    (tmp_path / "README.md").write_text("about")
    assert load_source(str(tmp_path)).counts["rows"] == 5
    with pytest.raises(ValueError, match=r"'latest\.jsonl'\. Name the file itself"):
        load_source(str(tmp_path), split="test")


def test_folders_that_hold_no_one_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected data files \("):
        load_source(str(tmp_path))
    write_csv(tmp_path / "a.csv", ROWS)
    write_jsonl(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"2 formats.*'a\.csv', 'b\.jsonl'"):
        load_source(str(tmp_path))
