"""A base model of random weights, built from its config: for measurements of speed and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mv_lightning.model import attention
from mv_lightning.model.quantization import Quantization, quantization_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_STD = 0.02


def build_random_model(
    config: PretrainedConfig, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Build a model layer by layer: an 8B base is never in memory unquantized.

    Args:
        config: Of the model.
        quantization: See `BaseSettings`.
        dtype: Of what is not quantized, and of the matmuls.
        device: Where to.
    """
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention.NAME
        )
    to_4_bits = quantization_config(quantization, dtype)
    if to_4_bits is not None:
        model = replace_with_bnb_linear(model, ["lm_head"], to_4_bits)
        model.is_loaded_in_4bit = True
    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(module, Linear4bit) and name == "weight":
                shape = torch.Size((module.out_features, module.in_features))
                weight = _random(shape, dtype, device, generator)
                module.weight = _quantize(weight, module, device)
            else:
                weight = _random(parameter.shape, dtype, device, generator)
                setattr(module, name, torch.nn.Parameter(weight, requires_grad=False))
    model.tie_weights()
    _initialize_buffers(model, device)
    return model


def _initialize_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Compute what is not a parameter, such as rotary frequencies and embedding scales."""
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # transformers' mark for what it shall not overwrite
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            module._buffers[name] = torch.empty_like(buffer, device=device)
        if buffers:
            model._init_weights(module)


def _random(
    shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    """Ones for a norm's weights, normally distributed values for a matrix."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, device=device).normal_(0, _STD, generator=generator)


def _quantize(
    weight_OI: torch.Tensor, module: torch.nn.Module, device: torch.device
) -> torch.nn.Parameter:
    from bitsandbytes.nn import Params4bit

    packed: torch.nn.Parameter = Params4bit(
        weight_OI, requires_grad=False, quant_type="nf4", compress_statistics=True, module=module
    ).to(device)
    return packed
