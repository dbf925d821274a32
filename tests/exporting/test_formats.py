"""Exports hold the weights that they should, rounded once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mv_lightning import Verifier
from mv_lightning.cli import main
from mv_lightning.exporting.formats import write_merged
from mv_lightning.testing import tiny_options
from tests.conftest import ROOT


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


def test_a_base_that_is_stored_quantized_is_merged_unquantized(
    tiny_folder: Path, tmp_path: Path
) -> None:
    quantized = AutoModelForCausalLM.from_pretrained(
        tiny_folder,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    )
    quantized.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "base")
    options = [*tiny_options(tmp_path / "base", tmp_path / "run"), "--trainer.max_steps", "1"]
    main(["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options])
    write_merged(tmp_path / "run/phase1/adapter", tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
