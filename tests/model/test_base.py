"""The base model is really quantised, keeps its gradients, and refuses what cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from mv_lightning.data.batching import pack
from mv_lightning.model import adapters, base, verdict
from mv_lightning.schema import EncodedRows


def test_projections_are_nf4_with_double_quantisation(tiny: torch.nn.Module) -> None:
    layers = [m for m in tiny.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 2 * 7
    for layer in layers:
        assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested
        assert not layer.weight.requires_grad
    assert all(module.training for module in tiny.modules())


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


def test_fingerprint_tells_models_apart(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    quantised = base.load_base(
        base.BaseSettings(name=str(tiny_folder)), torch.float32, torch.device("cpu")
    )
    assert base.fingerprint(quantised) == base.fingerprint(model)
    model.model.norm.weight.data[3] += 0.01
    assert base.fingerprint(quantised) != base.fingerprint(model)


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


def test_half_precision_of_the_adapters_is_refused() -> None:
    assert base.compute_dtype("bf16-mixed") is torch.bfloat16
    assert base.compute_dtype("16-mixed") is torch.float16
    with pytest.raises(ValueError, match="lose small updates"):
        base.compute_dtype("bf16-true")
