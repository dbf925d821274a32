"""What is not a base model is refused with advice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mv_lightning.model import base


def test_another_architecture_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ValueError, match="'gpt2'"):
        base.load_base(
            base.BaseSettings(name=str(tmp_path / "b")), torch.float32, torch.device("cpu")
        )


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        base.load_tokenizer(base.BaseSettings(name=name))


def test_an_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="download the model on another machine"):
        base.load_tokenizer(base.BaseSettings(name="nobody/nothing"))
