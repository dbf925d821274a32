"""The dtype of the base model and of its matmuls under a precision of Lightning."""

from __future__ import annotations

import torch

PRECISION = "bf16-mixed"
"""The precision to use on hardware that has bf16."""

_DTYPES = {
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
    "32-true": torch.float32,
}


def default_precision(device: torch.device) -> str:
    """Return the precision that suits a device: bf16, or fp16 on GPUs without bf16.

    Args:
        device: A GPU or the CPU.
    """
    return PRECISION if supports_bf16(device) else "16-mixed"


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that the base model is stored and multiplied in under a Lightning precision.

    The adapters stay in fp32 under the mixed precisions: rounded to bf16, small updates vanish.

    Args:
        precision: Lightning's name of it.
        device: Where the model is.

    Raises:
        ValueError: The precision would round the adapters, quantized layers do not support it, or
            the device would emulate it.
    """
    if precision not in _DTYPES:
        raise ValueError(
            f"expected trainer.precision to be one of {', '.join(_DTYPES)}, got {precision!r}. "
            "Use bf16-mixed, or 16-mixed on GPUs without bf16. The -true half precisions would "
            "hold the adapters in 16 bits and lose small updates."
        )
    if precision == PRECISION and not supports_bf16(device):
        raise ValueError(
            f"expected a GPU with bf16 for trainer.precision={PRECISION}, got "
            f"{torch.cuda.get_device_name(device)}, which emulates it. Set "
            "trainer.precision=16-mixed (in Python: precision)."
        )
    return _DTYPES[precision]


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16 itself.

    PyTorch's `is_bf16_supported` counts emulation by default, which GPUs before compute capability
    8.0 fall back to.

    Args:
        device: A GPU or the CPU.
    """
    if device.type != "cuda":
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)
