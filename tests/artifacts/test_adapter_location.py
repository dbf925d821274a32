"""Adapters are found in folders, and on the Hub where there is no folder of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.artifacts.adapter_location import adapter_folder
from mv_lightning.exporting.hub import push
from tests.hub_server import Hub

REPO = "me/verifier"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "verifier").mkdir(parents=True)
    assert adapter_folder(REPO) == tmp_path / REPO
    (tmp_path / "run/phase2/adapter").mkdir(parents=True)
    assert adapter_folder("run/phase2") == tmp_path / "run/phase2/adapter"
    assert adapter_folder("a/b/c") == tmp_path / "a/b/c"  # no folder, and no name on the Hub


def test_only_the_files_of_an_adapter_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("verifier.json", "adapter_model.safetensors", "model.safetensors"):
        (tmp_path / "model" / name).write_text(name)
    push(tmp_path / "model", REPO, private=False)
    commit = hub.repositories[REPO].commit("main")
    for name in (REPO, f"{REPO}@{commit}"):
        files = {path.name for path in adapter_folder(name).iterdir()}
        assert files == {"verifier.json", "adapter_model.safetensors"}


def test_what_is_not_on_the_hub(hub: Hub) -> None:
    with pytest.raises(ValueError, match="no such folder, and me/none could not be loaded"):
        adapter_folder("me/none")
