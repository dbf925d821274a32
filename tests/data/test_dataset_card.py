"""A Hub dataset in a folder: the card says what the class numbers of its CSV files mean."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from mv_lightning.data.dataset_card import declared_classes
from mv_lightning.data.sources import load_source
from tests.data.files import ROWS, write_csv, write_jsonl

CARD = """---
license: mit
dataset_info:
  features:
  - name: question
    dtype: string
  - name: is_correct
    dtype:
      class_label:
        names:
          '0': {first}
          '1': {second}
---
# About
"""


def write_folder(folder: Path, card: str, labels: list[int | str]) -> str:
    folder.mkdir()
    (folder / "README.md").write_text(card)
    rows = [dict(row, is_correct=label) for row, label in zip(ROWS, labels, strict=True)]
    write_csv(folder / "train.csv", rows)
    return str(folder)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("correct", "incorrect"), [0, 0, 1, 1, 1]),
        (("incorrect", "correct"), [1, 1, 0, 0, 0]),
        (("'False'", "'True'"), [1, 1, 0, 0, 0]),
        (("'1'", "'0'"), [0, 0, 1, 1, 1]),
        (("correct", "incorrect"), ["correct", "correct", "incorrect", "incorrect", "incorrect"]),
    ],
)
def test_class_numbers_are_read_by_the_names_in_the_card(
    names: tuple[str, str], labels: list[int | str], as_file: bool, tmp_path: Path
) -> None:
    card = CARD.format(first=names[0], second=names[1])
    name = write_folder(tmp_path / "data", card, labels)
    source = load_source(f"{name}/train.csv" if as_file else name)
    assert source.labels_N is not None and source.labels_N.tolist() == [True] * 2 + [False] * 3
    write_jsonl(tmp_path / "data" / "test.jsonl", [dict(ROWS[0], is_correct=labels[0])])
    assert load_source(name, split="test").labels_N.tolist() == [True]  # type: ignore[union-attr]


def test_classes_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    card = CARD.format(first="neg", second="pos")
    with pytest.raises(ValueError, match=r"`is_correct` is not a label .'pos', 'pos', 'neg'"):
        load_source(write_folder(tmp_path / "data", card, [1, 1, 0, 0, 0]))


def test_files_that_name_their_classes_do_not_need_the_card(tmp_path: Path) -> None:
    text = datasets.Value("string")
    features = datasets.Features(
        question=text,
        answer=text,
        solution=text,
        is_correct=datasets.ClassLabel(names=["correct", "incorrect"]),
    )
    rows = [dict(row, is_correct=int(not row["is_correct"])) for row in ROWS]
    (tmp_path / "README.md").write_text(CARD.format(first="incorrect", second="correct"))
    saved = datasets.Dataset.from_list(rows, features=features)
    saved.to_parquet(str(tmp_path / "train.parquet"))
    source = load_source(str(tmp_path))
    assert source.labels_N is not None and source.labels_N.tolist() == [True] * 2 + [False] * 3


@pytest.mark.parametrize("card", ["", "# no front matter", "---\n- 1\n---\n", "---\na: [\n---\n"])
def test_a_folder_that_says_nothing_is_no_obstacle(card: str, tmp_path: Path) -> None:
    assert load_source(write_folder(tmp_path / "data", card, [1, 1, 0, 0, 0])).counts["rows"] == 5
    assert declared_classes(tmp_path / "data") == {}


def test_all_configurations_and_the_info_file_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n- config_name: a\n  features: []\n- config_name: b\n  features:\n"
        "  - name: x\n    dtype: {class_label: {names: [p, q]}}\n---\n"
    )
    assert declared_classes(tmp_path) == {"x": ["p", "q"]}
    info = {"features": {"y": {"names": ["r"], "_type": "ClassLabel"}, "z": {"dtype": "string"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert declared_classes(tmp_path) == {"x": ["p", "q"], "y": ["r"]}
