"""The base model is really quantized, and keeps its gradients."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

from mv_lightning.data.batching import pack
from mv_lightning.model import adapters, base, verdict
from mv_lightning.model.merging import merged_config, merged_weights
from mv_lightning.model.quantization import dequantize, expand_scales
from mv_lightning.schema import EncodedRows


def test_projections_are_nf4_with_double_quantization(tiny: torch.nn.Module) -> None:
    layers = [m for m in tiny.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 2 * 7
    for layer in layers:
        assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested
        assert not layer.weight.requires_grad
    assert all(module.training for module in tiny.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_expanded_scales_leave_the_weights_as_they_are(
    tiny: torch.nn.Module, dtype: torch.dtype
) -> None:
    for layer in tiny.modules():
        if isinstance(layer, Linear4bit):
            before = dequantize(layer, dtype)
            expand_scales(layer)
            state = layer.quant_state
            assert not state.nested and state.absmax.dtype == torch.float32
            assert state.absmax.numel() == before.numel() // 64
            assert torch.equal(dequantize(layer, dtype), before)
            expand_scales(layer)
            assert torch.equal(dequantize(layer, dtype), before)


def test_training_after_an_evaluation_pass_keeps_all_gradients(
    tiny: torch.nn.Module, encoded: EncodedRows
) -> None:
    batch, model = pack(encoded, torch.arange(2).numpy(), 2), tiny.get_base_model()
    tiny.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        verdict.hidden_states(model, batch)
    tiny.train()
    with torch.autocast("cpu", torch.bfloat16):
        verdict.hidden_states(model, batch)[batch.verdict_B].float().square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for p in adapters.trained_parameters(tiny).values()
    )


@pytest.fixture
def stored(tiny_settings: base.BaseSettings, tmp_path: Path) -> Path:
    """The tiny base, quantized and saved in bf16."""
    model = base.load_base(tiny_settings, torch.bfloat16, torch.device("cpu"))
    model.save_pretrained(tmp_path / "stored")
    base.load_tokenizer(tiny_settings).save_pretrained(tmp_path / "stored")
    return tmp_path / "stored"


def test_stored_4_bits_are_used_as_they_are(
    stored: Path, tiny_settings: base.BaseSettings, encoded: EncodedRows
) -> None:
    batch, results = pack(encoded, torch.arange(3).numpy(), 3), []
    for name in (tiny_settings.name, str(stored)):
        settings = base.BaseSettings(name=name, gradient_checkpointing=False)
        model = base.load_base(settings, torch.bfloat16, torch.device("cpu"))
        layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
        assert len(layers) == 14 and all(m.compute_dtype is torch.bfloat16 for m in layers)
        torch.manual_seed(0)
        adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32))
        hidden_TD = verdict.hidden_states(adapted.get_base_model(), batch)
        hidden_TD.float().square().sum().backward()
        results.append(
            [hidden_TD, *(p.grad for p in adapters.trained_parameters(adapted).values())]
        )
    assert all(map(torch.equal, *results))


def test_stored_4_bits_merge_into_an_unquantized_model(stored: Path) -> None:
    settings = base.BaseSettings(name=str(stored), gradient_checkpointing=False)
    model = base.load_base(settings, torch.float32, torch.device("cpu"))
    adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32))
    config = merged_config(adapted, torch.bfloat16)
    assert "quantization_config" not in config.to_dict() and config.dtype is torch.bfloat16
    with torch.device("meta"):
        merged = AutoModelForCausalLM.from_config(config)
    merged.load_state_dict(merged_weights(adapted, torch.bfloat16), assign=True)
    assert adapted.get_base_model().config.quantization_config is not None


def test_stored_4_bits_cannot_be_unquantized(stored: Path) -> None:
    settings = base.BaseSettings(name=str(stored), quantization="none")
    with pytest.raises(ValueError, match=r"stored in 4 bits, got none\. Set nf4"):
        base.load_config(settings)


def test_loftq_needs_unquantized_weights(stored: Path) -> None:
    model = base.load_base(base.BaseSettings(str(stored)), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"unquantized safetensors for model\.lora\.loftq"):
        adapters.attach(model, adapters.LoraSettings(loftq=True))


@pytest.mark.parametrize(
    ("stored_as", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes in 8 bits"),
    ],
)
def test_other_methods_are_refused(
    stored_as: dict[str, object], method: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stored_as}))
    for quantization in ("nf4", "none"):
        settings = base.BaseSettings(name=str(folder), quantization=quantization)
        with pytest.raises(ValueError, match=rf"got {method}\. Set model\.base\.name to the model"):
            base.load_base(settings, torch.float32, torch.device("cpu"))
