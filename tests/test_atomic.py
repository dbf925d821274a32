from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.atomic import atomic_file, atomic_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with atomic_file(target) as draft:
        draft.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for name in ("one", "two"):
        with atomic_folder(target) as draft:
            (draft / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), atomic_folder(target) as draft:
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["two"] and [p.name for p in target.parent.iterdir()] == ["folder"]


def test_json_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1.5, "é"]})
    assert (tmp_path / "a.json").read_text().endswith("}\n")
