"""A base model's name means the same from every folder, or is refused with advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from mv_lightning.model.base import BaseSettings
from mv_lightning.model.location import BaseLocation, absolute_name, locate


def test_paths_are_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "llama"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("models/llama", "./models/llama", "~/models/llama", "link", "models/../link"):
        settings = BaseSettings(name=name)
        assert settings.name == str(folder)
        assert locate(settings.name) == BaseLocation(str(folder))
    monkeypatch.chdir("/")
    assert locate(BaseSettings(name=str(folder)).name) == BaseLocation(str(folder))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unsloth/Meta-Llama-3.1-8B", BaseLocation("unsloth/Meta-Llama-3.1-8B", "main")),
        ("owner/name@v1.2", BaseLocation("owner/name", "v1.2")),
        ("owner/name@refs/pr/3", BaseLocation("owner/name", "refs/pr/3")),
    ],
)
def test_hub_ids(name: str, expected: BaseLocation) -> None:
    assert absolute_name(name) == name
    assert locate(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "./nowhere",
        "~/nowhere",
        "/nowhere/at/all",
        "nowhere",
        "a/b/c",
        "owner/name@",
        "no/file.gguf",
    ],
)
def test_no_such_folder(name: str) -> None:
    with pytest.raises(ValueError, match=r"no such folder or file\. Correct the name"):
        locate(name)


def test_a_file_of_weights_is_not_a_base(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ValueError, match=r"Set it to the folder that holds config\.json"):
        locate(str(file))
