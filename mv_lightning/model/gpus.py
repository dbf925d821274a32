"""Facts about GPUs: memory, peak speed, bandwidths."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GPU:
    """A model of GPU: the figures of NVIDIA's data sheets, and the memory that PyTorch reports."""

    name: str
    """Its name in options and tables."""
    words: str
    """Words of the name that PyTorch gives the device."""
    gb: float
    """Memory, in GB (10^9 bytes)."""
    peak_tflops: int
    """Dense 16-bit matmuls, in 10^12 operations a second."""
    memory_gb_s: int
    """Bandwidth of the memory, in GB a second."""
    link_gb_s: float
    """Bandwidth to the other GPUs of a node in one direction, in GB a second: NVLink, else PCIe."""
    has_varlen: bool = True
    """Whether packed attention is one call of PyTorch's varlen attention, see `attention`."""


GPUS = (
    GPU("T4", "T4", 15.8, 65, 320, 15.8, has_varlen=False),
    GPU("L4", "L4", 23.7, 121, 300, 31.5),
    GPU("A10", "A10", 23.7, 125, 600, 31.5),
    GPU("4090", "RTX 4090", 25.4, 165, 1_008, 31.5),
    GPU("A100-40", "A100 40GB", 42.4, 312, 1_555, 300),
    GPU("L40", "L40", 47.6, 181, 864, 31.5),
    GPU("L40S", "L40S", 47.6, 362, 864, 31.5),
    GPU("A100-80", "A100 80GB", 85.0, 312, 2_039, 300),
    GPU("H100-PCIe", "H100 PCIe", 85.0, 756, 2_000, 63),
    GPU("H100", "H100", 85.0, 989, 3_350, 450),
    GPU("H200", "H200", 150.1, 989, 4_800, 450),
)
"""By memory. The first match of a device's name counts."""


def gpu_named(name: str) -> GPU | None:
    """Return the GPU of a name in `GPUS`; None for another name.

    Args:
        name: Such as `A100-80`.
    """
    return next((gpu for gpu in GPUS if gpu.name == name), None)


def find_gpu(device_name: str) -> GPU | None:
    """Return the GPU of a device; None for an unknown one.

    Args:
        device_name: What `torch.cuda.get_device_name` returns.
    """
    words = set(re.split(r"[ -]", device_name))
    return next((gpu for gpu in GPUS if words.issuperset(gpu.words.split())), None)


def peak_tflops(device: torch.device) -> float | None:
    """Return the peak speed of a device; None for a CPU or an unknown GPU.

    Args:
        device: The device.
    """
    if device.type != "cuda":
        return None
    gpu = find_gpu(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.peak_tflops
