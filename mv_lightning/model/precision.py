"""The dtype of the base model and of its matmuls under a precision of Lightning."""

from __future__ import annotations

import warnings

import torch

PRECISION = "bf16-mixed"
"""The precision to use on hardware that has bf16."""

_DTYPES = {
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
    "32-true": torch.float32,
}


def default_precision(device: torch.device) -> str:
    """Return the precision that suits a device: bf16 where it computes in bf16 itself, otherwise
    fp16 on a GPU and fp32 on a CPU.

    Args:
        device: A GPU or the CPU. A GPU that this machine does not have is taken for one with bf16.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        return PRECISION
    if supports_bf16(device):
        return PRECISION
    return "16-mixed" if device.type == "cuda" else "32-true"


def default_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of the base model under `default_precision`.

    Args:
        device: A GPU or the CPU.
    """
    return _DTYPES[default_precision(device)]


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that the base model is stored and multiplied in under a Lightning precision.

    The adapters stay in fp32 under the mixed precisions: rounded to bf16, small updates vanish.

    Args:
        precision: Lightning's name of it.
        device: Where the model is.

    Raises:
        ValueError: The precision would round the adapters, quantized layers do not support it, or
            the GPU would emulate it. A CPU that emulates it is warned of.
    """
    if precision not in _DTYPES:
        raise ValueError(
            f"expected trainer.precision to be one of {', '.join(_DTYPES)}, got {precision!r}. "
            "Use bf16-mixed, or 16-mixed on GPUs without bf16. The -true half precisions would "
            "hold the adapters in 16 bits and lose small updates."
        )
    if precision == PRECISION and not supports_bf16(device):
        if device.type == "cpu":
            warnings.warn(
                f"this CPU emulates bf16: trainer.precision={PRECISION} is many times slower than "
                "32-true",
                stacklevel=2,
            )
            return _DTYPES[precision]
        raise ValueError(
            f"expected a GPU with bf16 for trainer.precision={PRECISION}, got "
            f"{torch.cuda.get_device_name(device)}, which emulates it. Set "
            "trainer.precision=16-mixed (in Python: precision)."
        )
    return _DTYPES[precision]


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16 itself.

    PyTorch's `is_bf16_supported` counts emulation by default, which GPUs before compute capability
    8.0 fall back to. CPUs without AVX-512 (or, on ARM, without its bf16 instructions) have no
    optimized kernels for bf16.

    Args:
        device: A GPU or the CPU.
    """
    if device.type == "cpu":
        # What PyTorch's own matmuls ask before they use oneDNN.
        return torch.backends.mkldnn.is_available() and bool(
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    return torch.cuda.get_device_capability(device) >= (8, 0)
