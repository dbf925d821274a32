"""A model of random weights is built from its config."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit

from mv_lightning.data.batching import pack
from mv_lightning.model import base, verdict
from mv_lightning.schema import EncodedRows


def test_random_weights_need_only_the_config(
    tiny_folder: Path, tmp_path: Path, encoded: EncodedRows
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").unlink()
    settings = base.BaseSettings(name=str(tmp_path / "b"), weights="random")
    model = base.load_base(settings, torch.bfloat16, torch.device("cpu"))
    assert sum(isinstance(m, Linear4bit) for m in model.modules()) == 14
    with torch.no_grad():
        hidden = verdict.hidden_states(model, pack(encoded, torch.arange(2).numpy(), 2))
    assert torch.isfinite(hidden).all() and hidden.float().std() > 0.1
