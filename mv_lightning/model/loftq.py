"""LoftQ: adapters initialised to compensate the quantization error of their projections.

Li et al. 2023 (arXiv:2310.08659). Shape suffixes: I is a projection's inputs, O its outputs, R the
rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mv_lightning.model.quantization import dequantize, is_stored_in_4_bits

if TYPE_CHECKING:
    from peft import PeftModel


def initialize_loftq(model: PeftModel) -> None:
    """Set each adapter to the best low-rank approximation of its projection's quantization error.

    PEFT has this for GPUs and for a scale (alpha / r) of 1 only.

    Args:
        model: The adapted model, its base quantized; changed in place.

    Raises:
        ValueError: The base is not quantized, or is not a local folder that has all its weights.
    """
    from safetensors import safe_open

    base = model.get_base_model()
    folder = Path(str(base.config._name_or_path))
    files = sorted(folder.glob("*.safetensors"))
    quantized_here = getattr(base, "is_loaded_in_4bit", False) and not _is_quantized_on_disk(folder)
    if not quantized_here or not files:
        raise ValueError(
            "expected a base model that is quantized (model.base.quantization=nf4) from a local "
            f"folder with unquantized safetensors for model.lora.loftq, got {folder}. Set "
            "model.lora.loftq=false, or use such a base."
        )
    layers = _quantized_layers(base)
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in sorted(layers.keys() & set(weights.keys())):
                _initialize(layers.pop(name), weights.get_tensor(name))
    if layers:
        raise ValueError(
            f"expected the safetensors in {folder} to hold the weights of all projections for "
            f"model.lora.loftq, but {len(layers)} are missing, such as {min(layers)}. Copy the "
            "base model's folder again, or set model.lora.loftq=false."
        )


def _is_quantized_on_disk(folder: Path) -> bool:
    from transformers import AutoConfig

    return folder.is_dir() and is_stored_in_4_bits(AutoConfig.from_pretrained(folder))


def _quantized_layers(base: torch.nn.Module) -> dict[str, Any]:
    """The adapted quantized layers by the name of their weights in the base's files."""
    from peft.tuners.lora.bnb import Linear4bit

    return {
        f"{name}.weight": module
        for name, module in base.named_modules()
        if isinstance(module, Linear4bit)
    }


@torch.no_grad()
def _initialize(layer: Any, exact_OI: torch.Tensor) -> None:
    """Make scale x B A the truncated singular value decomposition of the quantization error.

    Ranks beyond the matrix's own stay as they are.
    """
    quantized_OI = dequantize(layer.base_layer, torch.float32)
    error_OI = exact_OI.to(quantized_OI) - quantized_OI
    a_RI, b_OR = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    rank = min(a_RI.shape[0], *error_OI.shape)
    # Randomised, a thousandth of the exact decomposition's time at 8B; it draws from the
    # generator that the adapters are drawn from.
    left_OR, values_R, right_IR = torch.svd_lowrank(error_OI, q=rank, niter=4)
    root_R = (values_R / layer.scaling["default"]).sqrt()
    a_RI[:rank] = (right_IR * root_R).T
    b_OR[:, :rank] = left_OR * root_R
