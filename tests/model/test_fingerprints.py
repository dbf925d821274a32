"""Fingerprints differ between base models, and not between forms of one."""

from __future__ import annotations

from pathlib import Path

import torch

from mv_lightning.model import base
from mv_lightning.model.fingerprints import base_fingerprint


def test_fingerprint_tells_models_apart(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    quantized = base.load_base(
        base.BaseSettings(name=str(tiny_folder)), torch.float32, torch.device("cpu")
    )
    assert base_fingerprint(quantized) == base_fingerprint(model)
    model.model.norm.weight.data[3] += 0.01
    assert base_fingerprint(quantized) != base_fingerprint(model)


def test_the_precision_does_not_change_the_fingerprint(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    torch.nn.init.normal_(model.model.norm.weight, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path)
    fingerprints = {
        base_fingerprint(
            base.load_base(base.BaseSettings(str(tmp_path)), dtype, torch.device("cpu"))
        )
        for dtype in (torch.bfloat16, torch.float32)
    }
    assert len(fingerprints) == 1
