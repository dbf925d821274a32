"""LoRA adapters on the base model.

LoRA: Hu et al. 2021 (arXiv:2106.09685); rank-stabilised scaling: Kalajdzievski 2023
(arXiv:2312.03732).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mv_lightning.model.activation_checkpointing import enable_checkpointing
from mv_lightning.model.families import family_of
from mv_lightning.model.linear_head import HeadKind, set_head

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraSettings:
    """The adapters; the defaults are the report's final values."""

    r: int = 128
    """Rank."""
    alpha: int = 128
    """Scale: the adapter's output is multiplied by alpha / r (alpha / sqrt(r) with rslora)."""
    dropout: float = 0.0
    """Dropout on the adapters' input."""
    rslora: bool = False
    """Rank-stabilised scaling."""
    loftq: bool = False
    """Initialise the adapters to compensate the quantization error (LoftQ); needs the base as a
    local folder."""

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "expected model.lora to have r >= 1, alpha >= 1 and 0 <= dropout < 1, got "
                f"r={self.r}, alpha={self.alpha}, dropout={self.dropout}. Correct the value."
            )


def attach(base: PreTrainedModel, settings: LoraSettings, head: HeadKind = "verdict") -> PeftModel:
    """Add new adapters to all projections of every layer, and a head if it is to have its own.

    Args:
        base: The frozen base model; changed in place.
        settings: Rank, scale and initialisation.
        head: See `HeadKind`.

    Raises:
        ValueError: LoftQ was set for a base that is not quantized or not in a local folder.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=list(family_of(base.config).targets),
        bias="none",
        task_type="CAUSAL_LM",
        revision=getattr(base.config, "_commit_hash", None),  # of the Hub, for PEFT's own loading
    )
    if getattr(base, "is_loaded_in_4bit", False):
        from bitsandbytes.nn import Linear4bit

        from mv_lightning.model.linear import FusedLinear4bit, join_projections

        # PEFT's way to set the adapter class of a layer type; it is not saved with the adapter.
        config._register_custom_module({Linear4bit: FusedLinear4bit})
    base.disable_input_require_grads()  # PEFT enables them where activations are recomputed
    model: PeftModel = get_peft_model(base, config)
    if getattr(base, "is_loaded_in_4bit", False):
        join_projections(base)
    recomputes = any(getattr(m, "gradient_checkpointing", False) for m in base.modules())
    if settings.dropout and recomputes:
        enable_checkpointing(base, dropout=True)
    if settings.loftq:
        from mv_lightning.model.loftq import initialize_loftq

        initialize_loftq(model)
    set_head(base, head)
    return model


def detach(model: PeftModel) -> PreTrainedModel:
    """Remove the adapters and a head of its own, so that the base is as it was before `attach`.

    Args:
        model: The adapted model; it is of no use afterwards.

    Returns:
        The frozen base model, in training mode.
    """
    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        from mv_lightning.model.linear import separate_projections

        separate_projections(model)
    base: PreTrainedModel = model.unload()
    set_head(base, "verdict")
    base.disable_input_require_grads()
    if base.is_gradient_checkpointing:
        enable_checkpointing(base)
    base.train()
    return base


def trained_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name: the adapters, and a head of its own.

    Args:
        model: The adapted model.
    """
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def flops_per_token(model: PeftModel) -> int:
    """Return the floating-point operations that training needs for a token, without attention.

    Two for each weight of a projection forward, two for the gradient of its input; its own gradient
    is not computed. Six for each weight of an adapter, whose gradient is. Recomputing activations
    takes time too, but is not needed work. Heads, which see one token of a row, are left out.

    Args:
        model: The adapted model.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    parameters = trained_parameters(model).items()
    adapted = sum(parameter.numel() for name, parameter in parameters if "lora_" in name)
    return 4 * sum(layer.in_features * layer.out_features for layer in layers) + 6 * adapted
