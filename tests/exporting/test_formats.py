"""Exports hold the weights that they should, rounded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file

from mv_lightning import Verifier


@pytest.mark.parametrize("exported", ["merged"], indirect=True)
def test_merged_weights_are_rounded_once(exported: Path, trained_phase: Path) -> None:
    merged, adapter = (
        load_file(next(folder.glob("*.safetensors")))
        for folder in (exported, trained_phase / "adapter")
    )
    model = Verifier.load(trained_phase, device="cpu", precision="32-true").model.get_base_model()
    name = "model.layers.1.mlp.down_proj"
    packed = model.get_submodule(name).base_layer.weight
    down, up = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    exact = dequantize_4bit(packed.data, packed.quant_state) + 128 / 32 * (up @ down)
    assert merged[f"{name}.weight"].dtype == torch.bfloat16
    assert (merged[f"{name}.weight"].float() - exact).abs().max() <= exact.abs().max() * 2**-8
    assert (
        merged[f"{name}.weight"] == exact.bfloat16()
    ).float().mean() > 0.999  # sums in another order
    assert torch.equal(merged["lm_head.weight"], model.lm_head.weight.bfloat16())
