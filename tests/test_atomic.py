from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.atomic import Journal, atomic_file, atomic_folder, rename_existing, write_json


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
    with pytest.raises(RuntimeError), atomic_folder(target):
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["two"] and [
        p.name for p in target.parent.iterdir()
    ] == ["folder"]


def test_json_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1.5, "é"]})
    assert (tmp_path / "a.json").read_text().endswith("}\n")


def test_moving_aside_never_meets_what_was_moved_before(tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / "a.part").write_text(text)
        assert rename_existing(tmp_path / "a.part").read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.part.1", "a.part.2"]


def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    values = [{"rows": [1, 2], "odds": [0.1, -1e-30]}, {"x": "line\nbreak é"}, []]
    path = tmp_path / "deep" / "journal"
    journal = Journal(path)
    for value in values:
        journal.append(value)
    journal.close()
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends)
        assert list(Journal.read(path)) == values[:whole]
        journal = Journal(path)
        journal.append("more")
        journal.close()
        assert list(Journal.read(path)) == [*values[:whole], "more"]


def test_nothing_after_a_damaged_line_of_a_journal_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"1\n\0\0\0\n3\n")
    assert list(Journal.read(path)) == [1] and path.read_bytes() == b"1\n"
