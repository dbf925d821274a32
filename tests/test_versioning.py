from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mv_lightning.atomic import read_json, write_json
from mv_lightning.versioning import FORMAT_VERSION, read_versioned_json, write_versioned_json


def test_what_is_written_is_read_back_and_states_its_version(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_versioned_json(path, {"loss": 0.5})
    assert read_json(path) == {"format_version": FORMAT_VERSION, "loss": 0.5}
    assert read_versioned_json(path, "the summary of a phase") == {"loss": 0.5}


@pytest.mark.parametrize(
    "values, got",
    [
        ({}, "got none"),
        ({"format_version": FORMAT_VERSION - 1}, f"got {FORMAT_VERSION - 1}"),
        ({"format_version": FORMAT_VERSION + 1}, f"got {FORMAT_VERSION + 1}"),
        ({"format_version": "x"}, "got x"),
    ],
)
def test_another_version_is_refused(tmp_path: Path, values: dict[str, Any], got: str) -> None:
    write_json(tmp_path / "a.json", {**values, "loss": 0.5})
    with pytest.raises(ValueError) as error:
        read_versioned_json(tmp_path / "a.json", "the summary of a phase")
    message = str(error.value)
    for part in (
        str(tmp_path / "a.json"),
        "the summary of a phase",
        f"expected format version {FORMAT_VERSION}, {got}.",
        "run the phase again",
    ):
        assert part in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"3"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json \(the summary\) is damaged"):
        read_versioned_json(tmp_path / "a.json", "the summary")


def test_a_missing_file_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_versioned_json(tmp_path / "a.json", "the summary")


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_versioned_json(tmp_path / "a.json", {"loss": 0.5})
    with pytest.raises(TypeError):
        write_versioned_json(tmp_path / "a.json", {"loss": object()})
    assert json.loads((tmp_path / "a.json").read_text())["loss"] == 0.5
