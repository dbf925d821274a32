"""Facts about GPUs: memory and peak speed."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GPU:
    """A model of GPU."""

    name: str
    """Words of the name that PyTorch gives the device."""
    peak_tflops: int
    """Dense 16-bit matmuls, in 10^12 operations a second (NVIDIA's data sheets)."""


GPUS = (
    GPU("H100 PCIe", 756),
    GPU("H100", 989),
    GPU("H200", 989),
    GPU("A100", 312),
    GPU("L40S", 362),
    GPU("L40", 181),
    GPU("L4", 121),
    GPU("T4", 65),
)
"""The first match counts."""


@dataclass(frozen=True)
class GPUMemory:
    """What fits on a GPU depends on this."""

    gpu: str
    gb: float
    """Memory that PyTorch reports, in GB (10^9 bytes)."""
    has_varlen: bool = True
    """Whether packed attention is one call of PyTorch's varlen attention, see `attention`."""


MEMORY = (
    GPUMemory("T4", 15.8, has_varlen=False),
    GPUMemory("L4", 23.7),
    GPUMemory("A100, 40 GB", 42.4),
    GPUMemory("H100, A100 80 GB", 85.0),
)


def peak_tflops(device: torch.device) -> float | None:
    """Return the peak speed of a device; None for a CPU or an unknown GPU.

    Args:
        device: The device.
    """
    if device.type != "cuda":
        return None
    words = set(re.split(r"[ -]", torch.cuda.get_device_name(device)))
    return next((gpu.peak_tflops for gpu in GPUS if words.issuperset(gpu.name.split())), None)
