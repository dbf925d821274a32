"""4-bit quantization of the base model with bitsandbytes.

NF4 with double quantization: Dettmers et al. 2023 (arXiv:2305.14314). Shape suffixes: I is a
projection's inputs, O its outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

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


def is_stored_in_4_bits(config: PretrainedConfig) -> bool:
    """Return whether a base model's files hold weights that bitsandbytes quantized to 4 bits.

    Args:
        config: Of the base model, as it was read.
    """
    stored = _stored_quantization(config)
    in_4_bits = stored.get("load_in_4bit") or stored.get("_load_in_4bit")
    return stored.get("quant_method") == "bitsandbytes" and bool(in_4_bits)


def check_stored_quantization(
    config: PretrainedConfig, quantization: Quantization, name: str
) -> None:
    """Check that a base model whose files are quantized already can be used, and as set.

    Args:
        config: Of the base model, as it was read.
        quantization: See `BaseSettings`.
        name: Of the base model, for the message.

    Raises:
        ValueError: It was quantized with another method, or `quantization` is `none`.
    """
    stored = _stored_quantization(config)
    if stored and not is_stored_in_4_bits(config):
        method = stored.get("quant_method", "an unknown method")
        method += " in 8 bits" if stored.get("load_in_8bit") else ""
        raise ValueError(
            f"expected the weights of {name!r} to be unquantized, or quantized to 4 bits by "
            f"bitsandbytes, got {method}. Set model.base.name to the model that it was made from; "
            "model.base.quantization=nf4 quantizes that while loading."
        )
    if stored and quantization == "none":
        raise ValueError(
            f"expected model.base.quantization=nf4 for {name!r}, whose weights are stored in 4 "
            "bits, got none. Set nf4, or set model.base.name to the model that it was made from."
        )


def _stored_quantization(config: PretrainedConfig) -> dict[str, Any]:
    stored = getattr(config, "quantization_config", None) or {}
    return stored if isinstance(stored, dict) else dict(stored.to_dict())


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


def prepare_quantized(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Set the dtype of matmuls and of what is not quantized; keep quantized weights as they are.

    On CPUs with avx512_bf16 bitsandbytes repacks weights in evaluation. The repacked layers use a
    kernel without gradients, so that training after the first validation would silently lose two
    thirds of its gradients.

    On a GPU the scales are expanded: otherwise three small kernels of each layer would do it
    forward, backward and in every recomputation.

    Args:
        model: The quantized base model; changed in place.
        dtype: Files that are quantized already state one of their own.

    Raises:
        ValueError: The head is quantized, whose rows the verdict is read from.
    """
    from bitsandbytes.nn import Linear4bit

    if isinstance(model.lm_head, Linear4bit):
        raise ValueError(
            "expected a base model whose lm_head is not quantized. Set model.base.name to the "
            "model that it was made from."
        )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = dtype
            module.compute_type_is_set = True
            # Those of the layer are read: sharding replaces its weight by a plain parameter.
            module.quant_state = module.weight.quant_state
            if module.weight.is_cuda:
                expand_scales(module)
    for parameter in model.parameters():
        # Files that are quantized already keep the dtype that the rest is stored in.
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def expand_scales(layer: Any) -> None:
    """Replace the 8-bit scales of double quantization by their values in fp32.

    The weights stay the same to the last bit; the scales take four times the memory.

    Args:
        layer: A `Linear4bit` of bitsandbytes; changed in place.
    """
    from bitsandbytes.functional import dequantize_blockwise

    state = layer.quant_state
    if state.nested:
        state.absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
        state.nested, state.state2, state.offset = False, None, None


def dequantize(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a projection's weights as a dense matrix.

    Args:
        layer: A `Linear4bit` of bitsandbytes.
        dtype: Of the result; the values are first rounded to the dtype that the base was loaded in.

    Returns:
        The weights [O, I].
    """
    from bitsandbytes.functional import dequantize_4bit

    weight_OI: torch.Tensor = dequantize_4bit(layer.weight.data, layer.quant_state)
    return weight_OI.to(dtype)
