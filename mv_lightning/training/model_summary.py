"""A summary of the model: what is stored, what is trained, what a token costs."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from mv_lightning.model.adapters import flops_per_token, trained_parameters


class ModelSummary(pl.Callback):
    """Prints the model before the first step.

    Lightning's own table counts the bytes of 4-bit weights as parameters, and no FLOPs.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the summary."""
        if trainer.is_global_zero:
            print(summarize(pl_module))


def summarize(module: pl.LightningModule) -> str:
    """Return the summary of an adapted model as text.

    Args:
        module: A `VerdictModule` whose model is configured.
    """
    trained = trained_parameters(module.adapted)
    frozen = [p for p in module.adapted.parameters() if not p.requires_grad]
    settings = module.base_settings
    weights = sum(map(_elements, frozen))
    adapters = sum(parameter.numel() for parameter in trained.values())
    base_bytes = sum(parameter.nbytes for parameter in frozen)
    adapter_bytes = sum(parameter.nbytes for parameter in trained.values())
    flops = flops_per_token(module.adapted)
    kinds = f"LoRA r {module.lora_settings.r}"
    if module.head == "linear":
        kinds += " and a linear head"
    return (
        f"base: {settings.name} ({settings.quantization}), {weights / 1e6:,.1f} M parameters in "
        f"{base_bytes / 1e6:,.0f} MB\n"
        f"adapters: {kinds}, {adapters / 1e6:,.2f} M trained parameters in "
        f"{adapter_bytes / 1e6:,.0f} MB\n"
        f"training: {flops / 1e9:.2f} GFLOP per packed token (4 per weight of a projection, 6 per "
        "weight of an adapter)"
    )


def _elements(parameter: torch.nn.Parameter) -> int:
    """Return the number of weights; a 4-bit tensor stores two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
