"""The base model is really quantized, and keeps its gradients."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit

from mv_lightning.data.batching import pack
from mv_lightning.model import adapters, verdict
from mv_lightning.schema import EncodedRows


def test_projections_are_nf4_with_double_quantization(tiny: torch.nn.Module) -> None:
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
