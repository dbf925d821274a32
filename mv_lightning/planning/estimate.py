"""What a phase needs of a GPU and of the disk, computed before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings
from mv_lightning.model.gpus import GPUS
from mv_lightning.model.linear_head import HeadKind
from mv_lightning.model.optim import OptimSettings, state_bytes
from mv_lightning.planning.memory import (
    MemoryItem,
    ModelDims,
    least_checkpointing,
    training_memory,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MARGIN = 0.1
"""Share of a GPU's memory that is left free: for the allocator's gaps and what the terms omit."""


@dataclass(frozen=True)
class GPUFit:
    """Whether a phase fits on a GPU."""

    gpu: str
    memory_gb: float
    fits: bool
    """With the settings as they are."""
    least_checkpointing: bool | int | None
    """The `gradient_checkpointing` that recomputes least and fits; None if nothing fits."""


@dataclass(frozen=True)
class Estimate:
    """What a phase needs."""

    trained: int
    """Trained parameters."""
    items: list[MemoryItem]
    """The parts of the peak memory."""
    gpus: list[GPUFit]
    adapter_bytes: int
    """Of an adapter folder's weights."""
    checkpoint_bytes: int
    """Of a checkpoint: adapters and optimizer state."""

    @property
    def peak_bytes(self) -> float:
        """Peak memory of the GPU."""
        return sum(item.bytes for item in self.items)


def estimate_phase(
    config: PretrainedConfig,
    base: BaseSettings,
    lora: LoraSettings,
    optim: OptimSettings,
    tokens: int,
    rows: int,
    distributed: bool = False,
    head: HeadKind = "verdict",
) -> Estimate:
    """Compute what a phase needs.

    Args:
        config: Of the base model.
        base: How the base model is stored, and what is recomputed.
        lora: The adapters.
        optim: The optimizer.
        tokens: Of the largest packed micro-batch.
        rows: Of the micro-batch.
        distributed: Whether several processes train.
        head: What computes the log-odds.
    """
    dims = ModelDims.of(config)
    trained = dims.trained(lora.r, head)
    items = training_memory(dims, base, lora, optim, tokens, rows, distributed, head)
    gpus = []
    for gpu in GPUS:
        budget = gpu.gb * (1 - MARGIN) * 1e9
        on_gpu = replace(dims, repeats_keys=not gpu.has_varlen)
        needed = training_memory(on_gpu, base, lora, optim, tokens, rows, distributed, head)
        peak = sum(item.bytes for item in needed)
        least = least_checkpointing(
            on_gpu, base, lora, optim, tokens, rows, budget, distributed, head
        )
        gpus.append(GPUFit(gpu.name, gpu.gb, peak <= budget, least))
    adapter_bytes = 4 * trained
    checkpoint_bytes = adapter_bytes + state_bytes(optim, trained)
    return Estimate(trained, items, gpus, adapter_bytes, checkpoint_bytes)
