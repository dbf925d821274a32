"""Norms and gated activations of the layers as one kernel each, by `torch.compile`.

Operator by operator, a norm in fp32 passes over its input eight times. Only functions of tensors
are compiled: the projections, attention and the loop over the layers stay as they are, so that
nothing depends on how a batch is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


class GatedMLP(torch.nn.Module):
    """A feed-forward layer with its activation and the gate's product as one function."""

    def __init__(
        self,
        mlp: torch.nn.Module,
        gated: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        """Take over the projections of a layer, under the same names.

        Args:
            mlp: A layer of transformers that computes down(activation(gate(x)) * up(x)).
            gated: Computes activation(gate) * up.
        """
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (getattr(mlp, name) for name in PROJECTIONS)
        self._gated = gated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output.

        Args:
            x: Hidden states.
        """
        out: torch.Tensor = self.down_proj(self._gated(self.gate_proj(x), self.up_proj(x)))
        return out


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile the norms and the gated activations, for any number of tokens.

    What a family's norm computes, such as the 1 + weight of Gemma, is read from its own code.
    Models that have gate and up in one projection (Phi-3) keep their feed-forward layers.

    Args:
        model: The base model, without adapters; changed in place.
        backend: Of `torch.compile`.
    """
    layers = model.base_model.layers
    if all(hasattr(layers[0].mlp, name) for name in PROJECTIONS):
        activation = layers[0].mlp.act_fn

        def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            product: torch.Tensor = activation(gate) * up
            return product

        compiled = torch.compile(gated, dynamic=True, backend=backend)
        for layer in layers:
            layer.mlp = GatedMLP(layer.mlp, compiled)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.compile(dynamic=True, backend=backend)
