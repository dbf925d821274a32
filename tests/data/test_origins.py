"""What a name means: `~`, relative paths and links are followed to the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.data.sources import load_source
from tests.data.files import ROWS, write_csv, write_jsonl, write_saved


def test_home_relative_and_linked_paths_name_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    write_csv(tmp_path / "real" / "train.csv", ROWS)
    write_csv(tmp_path / "real" / "test.csv", ROWS[:2])
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file.csv").symlink_to("real/train.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "real")
    fingerprint = load_source(str(tmp_path / "real")).fingerprint
    names = ["~/real", "~/link", "../link", ".", "../real/../link", "~/file.csv", "train.csv"]
    for name in [*names, str(tmp_path / "link")]:
        source = load_source(name)
        assert source.fingerprint == fingerprint and source.name == name
    assert load_source("~/link", split="test").counts["rows"] == 2


def test_links_within_a_folder_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_jsonl(tmp_path / "elsewhere" / "train-0.jsonl", ROWS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to("../elsewhere")
    (tmp_path / "data" / "again").symlink_to(".")
    source = load_source(str(tmp_path / "data"))
    assert source.counts["rows"] == 5 and list(source.files) == ["linked/train-0.jsonl"]


def test_a_broken_link_is_not_passed_over(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train-0.jsonl", ROWS)
    (tmp_path / "train-1.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(ValueError, match=r"train-1\.jsonl: cannot be read"):
        load_source(str(tmp_path))


def test_a_saved_dataset_behind_a_link_is_read(tmp_path: Path) -> None:
    write_saved(tmp_path / "saved", ROWS)
    (tmp_path / "link").symlink_to("saved")
    assert load_source(str(tmp_path / "link")).counts["rows"] == 5


def test_the_message_names_the_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere")
    with pytest.raises(ValueError, match=rf"rows\.csv: no such.*{tmp_path}/rows\.csv"):
        load_source("rows.csv")
    with pytest.raises(ValueError, match=r"looked for /somewhere/rows\.csv"):
        load_source("~/rows.csv")
