"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mv_lightning.model.quantization import require_bitsandbytes

STATE_BLOCK = 256
"""Elements of an 8-bit state of bitsandbytes that share a scale."""
MIN_8BIT_ELEMENTS = 4_096
"""bitsandbytes keeps the states of smaller tensors in fp32."""


@dataclass(frozen=True)
class OptimSettings:
    """How the adapter is trained; the defaults are the report's final values."""

    name: Literal["adamw_8bit", "adamw_torch", "paged_adamw_32bit"] = "adamw_8bit"
    """The optimizer: 8-bit state (Dettmers et al. 2022, arXiv:2110.02861), PyTorch's own, or 32-bit
    state that a GPU may page out to the host."""
    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the rate falls to 0 after the warm-up."""
    warmup_steps: int = 10
    """Optimizer steps in which the rate rises linearly from 0 to its peak."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(
                "expected model.optim to have lr > 0, weight_decay >= 0 and warmup_steps >= 0, got "
                f"lr={self.lr}, weight_decay={self.weight_decay}, warmup_steps="
                f"{self.warmup_steps}. Correct the value."
            )


def state_bytes(settings: OptimSettings, elements: int) -> int:
    """Return the bytes of the optimizer's state for a tensor.

    bitsandbytes has two states of a byte for each element, and for each block a scale in fp32;
    small tensors, and the other optimizers, have two states in fp32.

    Args:
        settings: Which optimizer.
        elements: Of the tensor.
    """
    in_bytes = settings.name == "adamw_8bit" and elements >= MIN_8BIT_ELEMENTS
    return 2 * elements + 8 * elements // STATE_BLOCK if in_bytes else 8 * elements


def future_state_bytes(optimizer: Optimizer, settings: OptimSettings) -> int:
    """Return the bytes of state that an optimizer will allocate in its first step.

    Args:
        optimizer: What `build_optimizer` returned, before its first step or after a resume.
        settings: What it was built with.

    Returns:
        Bytes; 0 if the state exists already.
    """
    if optimizer.state_dict()["state"]:
        return 0
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return sum(state_bytes(settings, parameter.numel()) for parameter in parameters)


def build_optimizer(parameters: Iterable[torch.nn.Parameter], settings: OptimSettings) -> Optimizer:
    """Return the optimizer over the trained parameters.

    Args:
        parameters: What is trained.
        settings: Name, rate and decay.

    Raises:
        ValueError: The optimizer is one of bitsandbytes, which cannot be imported.
    """
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.name == "adamw_torch":
        return torch.optim.AdamW(parameters, **common)
    require_bitsandbytes(f"model.optim.name={settings.name}", "model.optim.name=adamw_torch")
    from mv_lightning.model.flat_optimizer import FlatAdamW

    if settings.name == "adamw_8bit":
        return FlatAdamW(parameters, optim_bits=8, **common)
    return FlatAdamW(parameters, optim_bits=32, is_paged=True, **common)


def build_schedule(optimizer: Optimizer, settings: OptimSettings, total_steps: int) -> LambdaLR:
    """Return the schedule, to be stepped once per optimizer step.

    Args:
        optimizer: The optimizer whose rate it drives.
        settings: Kind and warm-up.
        total_steps: Optimizer steps of the whole run, warm-up included.
    """
    from transformers import get_scheduler

    schedule: LambdaLR = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=total_steps,
    )
    return schedule
