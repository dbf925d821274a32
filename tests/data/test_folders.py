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


def make_files(folder: Path, names: list[str]) -> None:
    """Files with as many rows as their place in the list, from 1."""
    for rows, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / name, [ROWS[0]] * rows)


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        # The name of the file before that of the folder.
        (["training_set/train.jsonl", "training_set/valid.jsonl"], "train", [0]),
        (["training_set/train.jsonl", "training_set/valid.jsonl"], "val", [1]),
        (["training_set/train.jsonl", "training_set/valid.jsonl"], "validation", [1]),
        (["test/train.jsonl", "train/test.jsonl"], "train", [0]),
        (["train/algebra/1.jsonl", "train/geometry/1.jsonl", "test/1.jsonl"], "train", [0, 1]),
        (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"], "train", [0, 1]),
        # Whole words only, in any case, with the usual endings.
        (["trainset.jsonl", "testdata.jsonl", "train2.jsonl"], "train", [0, 2]),
        (["gsm_Train.jsonl", "contest.jsonl", "pretrain.jsonl"], "train", [0]),
        (["device.jsonl", "values.jsonl", "trainers.jsonl"], "train", [0, 1, 2]),
        (["training.jsonl", "testing.jsonl", "development.jsonl"], "dev", [2]),
        (["train_hard.jsonl", "test_hard.jsonl", "test_easy.jsonl"], "test_easy", [2]),
        # Nothing says a split: all is training data.
        (["a/one.jsonl", "b/two.jsonl", "three.jsonl"], "train", [0, 1, 2]),
    ],
)
def test_the_files_of_a_split(
    names: list[str], split: str, chosen: list[int], tmp_path: Path
) -> None:
    make_files(tmp_path, names)
    source = load_source(str(tmp_path), split=split)
    assert sorted(source.files) == sorted(names[index] for index in chosen)
    assert source.counts["rows"] == sum(index + 1 for index in chosen)
    assert source.files[0] in source.description


@pytest.mark.parametrize(
    ("names", "choices"),
    [
        (["main/train.jsonl", "socratic/train.jsonl"], ["main", "socratic"]),
        (["main/train-0-of-1.jsonl", "socratic/train-0-of-2.jsonl"], ["main", "socratic"]),
        (["main/train/0.jsonl", "socratic/train/0.jsonl"], ["main", "socratic"]),
        (["train.jsonl", "backup/train.jsonl"], ["backup"]),
        (["main/rows.jsonl", "socratic/rows.jsonl"], ["main", "socratic"]),
        (["rows.jsonl", "old/rows.jsonl"], ["old"]),
    ],
)
def test_several_sets_of_files_are_refused_with_the_choice(
    names: list[str], choices: list[str], tmp_path: Path
) -> None:
    """Else the same questions would be trained on twice, or tested on after training."""
    make_files(tmp_path, names)
    with pytest.raises(ValueError, match=r"expected one set of files.*got 2.*Name one") as caught:
        load_source(str(tmp_path))
    for choice in choices:
        assert str(tmp_path / choice) in str(caught.value)
    chosen = load_source(str(tmp_path / choices[-1]))
    assert chosen.counts["rows"] == 2


def test_the_shards_of_a_test_split_do_not_count_as_several_sets(tmp_path: Path) -> None:
    make_files(tmp_path, ["train/0.jsonl", "test/0.jsonl", "test/1.jsonl"])
    assert list(load_source(str(tmp_path), split="test").files) == ["test/0.jsonl", "test/1.jsonl"]
