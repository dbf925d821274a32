"""The base's weights with the adapter merged into them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from mv_lightning.model.quantization import dequantize

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig


def merged_weights(model: PeftModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the base's weights with the adapters' added, under the base's own names, on the CPU.

    If the base was loaded in fp32, the sum is taken in fp32 and rounded once. Merging in PEFT would
    round the sum of a quantized layer to 4 bits again.

    Args:
        model: The adapted model.
        dtype: Of the result.
    """
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    merged = {
        name.replace(".base_layer.", "."): parameter.detach().to("cpu", dtype)
        for name, parameter in base.named_parameters(remove_duplicate=False)
        if ".lora_" not in name and parameter.is_floating_point()
    }
    for name, layer in base.named_modules():
        if isinstance(layer, LoraLayer):
            merged[f"{name}.weight"] = _merged(layer).to("cpu", dtype)
    return merged


def merged_config(model: PeftModel, dtype: torch.dtype) -> PretrainedConfig:
    """Return the config of the merged model: the base's, without its quantization.

    Args:
        model: The adapted model.
        dtype: Of the merged weights.
    """
    config: PretrainedConfig = copy.deepcopy(model.get_base_model().config)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    config.dtype = dtype
    return config


@torch.no_grad()
def _merged(layer: Any) -> torch.Tensor:
    base = layer.get_base_layer()
    is_quantized = hasattr(base, "quant_state")
    weight_OI = dequantize(base, torch.float32) if is_quantized else base.weight
    total_OI: torch.Tensor = weight_OI.float() + layer.get_delta_weight("default").float()
    return total_OI
