"""4-bit quantization of the base model with bitsandbytes.

NF4 with double quantization: Dettmers et al. 2023 (arXiv:2305.14314). Shape suffixes: I is a
projection's inputs, O its outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

Quantization = Literal["nf4", "none"]


def quantization_config(
    quantization: Quantization, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """Return transformers' description of how to quantize the base; None for not at all.

    Args:
        quantization: See `BaseSettings`.
        dtype: Of the matmuls.
    """
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def require_bitsandbytes(setting: str, alternative: str) -> Any:
    """Return the module bitsandbytes.

    Args:
        setting: The setting that needs it, for the message.
        alternative: A setting that does not.

    Raises:
        ValueError: It is not installed, or does not work on this machine.
    """
    try:
        import bitsandbytes
    except Exception as error:  # missing GPU libraries raise many types, not only ImportError
        raise ValueError(
            f"{setting} needs bitsandbytes, which cannot be imported here: {error}. Install it for "
            "this machine (pip install --force-reinstall bitsandbytes; python -m bitsandbytes says "
            f"what is missing), or set {alternative}."
        ) from error
    return bitsandbytes


def disable_cpu_repacking(model: PreTrainedModel) -> None:
    """Prevent bitsandbytes from repacking weights in evaluation on CPUs with avx512_bf16.

    The repacked layers use a kernel without gradients, so that training after the first validation
    would silently lose two thirds of its gradients.

    Args:
        model: The quantized base model; changed in place.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def dequantize(packed: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a projection's weights as a dense matrix.

    Args:
        packed: A `Params4bit` of bitsandbytes.
        dtype: Of the result; the values are first rounded to the dtype that the base was loaded in.

    Returns:
        The weights [O, I].
    """
    from bitsandbytes.functional import dequantize_4bit

    weight_OI: torch.Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return weight_OI.to(dtype)
