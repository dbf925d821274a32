"""Quantized projections and their adapters as one operation.

PEFT computes the base's matmul, copies its result, computes the adapter's two matmuls, scales, and
adds: five passes over the activations besides the matmuls, and as many again backward. Here the
adapter's result is added into the base's, and the backward pass consists of matmuls only.

On a GPU, projections of the same input are computed together: the first matrices of their adapters
as one product, and the gradient of the input as one sum. Shape suffixes: see
`mv_lightning/schema.py`; I is a projection's inputs, O its outputs, R its adapter's rank, S the sum
of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from torch.autograd.function import once_differentiable

from mv_lightning.model.quantization import dequantize

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of projections of a module that have the same input."""
JOINED_ON = ("cuda",)
"""Device types on which they are computed together; rounding differs from one after the other."""


class FusedLinear4bit(PeftLinear4bit):
    """PEFT's adapted 4-bit layer with another forward pass.

    Everything else is PEFT's: names, initialisation, saving, merging. So is the forward pass of a
    merged or disabled adapter, or of one with dropout, whose input is not the base's.
    """

    shared_input: SharedInput | None = None
    """What computes this projection together with others, see `join_projections`."""

    @property
    def fused(self) -> bool:
        """Whether base and adapter are one operation now."""
        (name,) = self.active_adapters
        no_dropout = isinstance(self.lora_dropout[name], torch.nn.Identity)
        return no_dropout and not self.disable_adapters and not self.merged

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return x W^T + bias + scale (x A^T) B^T, in autocast's dtype or else the base's."""
        out: torch.Tensor
        if not self.fused:
            out = super().forward(x, *args, **kwargs)
        elif self.shared_input is not None and self.shared_input.applies_to(x):
            out = self.shared_input.output(self, x)
        else:
            (out,) = _outputs((self,), x)
        return out


class SharedInput:
    """Projections of a module that have the same input, computed together.

    The first one that the module calls computes the outputs of all. They are held until each is
    asked for, and not longer than the module's forward pass: in a recomputation this ends with an
    exception, and after any other exception the outputs would fill memory. A projection that is
    called without its module is computed alone.
    """

    def __init__(self, module: torch.nn.Module, layers: Sequence[FusedLinear4bit]) -> None:
        """Compute projections together from now on.

        Args:
            module: It calls the projections.
            layers: The projections.
        """
        self._layers = layers
        self._in_forward = False
        self._x: torch.Tensor | None = None
        self._pending: dict[FusedLinear4bit, torch.Tensor] = {}
        self._hooks = (
            module.register_forward_pre_hook(self._begin),
            module.register_forward_hook(self._end, always_call=True),
        )
        for layer in layers:
            layer.shared_input = self

    def applies_to(self, x: torch.Tensor) -> bool:
        """Return whether the projections of an input are computed together now.

        Args:
            x: The input.
        """
        if not self._in_forward or x.device.type not in JOINED_ON:
            return False
        return all(layer.fused for layer in self._layers)

    def output(self, layer: FusedLinear4bit, x: torch.Tensor) -> torch.Tensor:
        """Return the output of a projection.

        Args:
            layer: One of the projections.
            x: The input; the outputs of another input are dropped.
        """
        if x is not self._x or layer not in self._pending:
            outputs = _outputs(self._layers, x)
            self._x, self._pending = x, dict(zip(self._layers, outputs, strict=True))
        out = self._pending.pop(layer)
        if not self._pending:
            self._x = None
        return out

    def separate(self) -> None:
        """Compute every projection alone again."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers:
            layer.shared_input = None

    def _begin(self, *_: Any) -> None:
        self._in_forward = True

    def _end(self, *_: Any) -> None:
        self._in_forward, self._x, self._pending = False, None, {}


def join_projections(model: torch.nn.Module) -> None:
    """Compute projections that have the same input together, on devices of `JOINED_ON`.

    Args:
        model: With adapters; changed in place.
    """
    for module in model.modules():
        children = dict(module.named_children())
        for names in SAME_INPUT:
            found = [children.get(name) for name in names]
            layers = [layer for layer in found if isinstance(layer, FusedLinear4bit)]
            if len(layers) == len(names):
                SharedInput(module, layers)


def separate_projections(model: torch.nn.Module) -> None:
    """Undo `join_projections`.

    Args:
        model: With adapters; changed in place.
    """
    for module in model.modules():
        if isinstance(module, FusedLinear4bit) and module.shared_input is not None:
            module.shared_input.separate()


class _Base(NamedTuple):
    """A frozen projection, and the scale of its adapter.

    Its weight is looked up where it is used: a sharded one is another tensor in the backward pass.
    """

    layer: Linear4bit
    scale: float


def _outputs(layers: Sequence[FusedLinear4bit], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what each projection computes from the same input."""
    dtype = layers[0].base_layer.compute_dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    bases, firsts, seconds = [], [], []
    for layer in layers:
        (name,) = layer.active_adapters
        bases.append(_Base(layer.base_layer, layer.scaling[name]))
        firsts.append(layer.lora_A[name].weight)
        seconds.append(layer.lora_B[name].weight)
    outputs: tuple[torch.Tensor, ...] = _LoraMatmul.apply(x, bases, dtype, *firsts, *seconds)
    return outputs


class _LoraMatmul(torch.autograd.Function):
    """The adapters' weights are rounded to `dtype` for the matmuls; their gradients are not.

    The biases are the base's and frozen: they get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: torch.Tensor,
        bases: Sequence[_Base],
        dtype: torch.dtype,
        *adapters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """`adapters` are the first matrices [R, I] of all projections, then the second [O, R]."""
        ctx.bases, ctx.shape, ctx.x_dtype = bases, x_TI.shape, x_TI.dtype
        firsts, seconds = adapters[: len(bases)], adapters[len(bases) :]
        x_TI = x_TI.reshape(-1, x_TI.shape[-1]).to(dtype)
        low_TS = x_TI @ _stacked(firsts, dtype).T
        lows = low_TS.split([len(a_RI) for a_RI in firsts], dim=1)
        outputs = []
        for (layer, scale), low_TR, b_OR in zip(bases, lows, seconds, strict=True):
            bias_O = None if layer.bias is None else layer.bias.to(dtype)
            out_TO = F.linear(x_TI, dequantize(layer, dtype), bias_O)
            out_TO.addmm_(low_TR, b_OR.to(dtype).T, alpha=scale)
            outputs.append(out_TO.view(*ctx.shape[:-1], -1))
        # Not the rounded adapters: until the backward pass, those of all layers would take two
        # bytes a weight.
        ctx.save_for_backward(x_TI, low_TS, *adapters)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, low_TS, *adapters = ctx.saved_tensors
        bases, dtype = ctx.bases, x_TI.dtype
        firsts, seconds = adapters[: len(bases)], adapters[len(bases) :]
        ranks = [len(a_RI) for a_RI in firsts]
        grad_low_TS = torch.empty_like(low_TS)
        lows, grad_lows = (low.split(ranks, dim=1) for low in (low_TS, grad_low_TS))
        grad_TI, grad_seconds = None, []
        for base, grad, b_OR, low_TR, grad_low_TR in zip(
            bases, grads, seconds, lows, grad_lows, strict=True
        ):
            grad_TO = grad.reshape(-1, grad.shape[-1]).to(dtype)
            torch.mm(grad_TO, _scaled(b_OR.to(dtype), base.scale), out=grad_low_TR)
            grad_seconds.append((grad_TO.T @ _scaled(low_TR, base.scale)).to(b_OR.dtype))
            if ctx.needs_input_grad[0]:
                weight_OI = dequantize(base.layer, dtype)
                grad_TI = _plus_product(grad_TI, grad_TO, weight_OI)
        grad_x = None
        if grad_TI is not None:
            grad_TI.addmm_(grad_low_TS, _stacked(firsts, dtype))
            grad_x = grad_TI.view(ctx.shape).to(ctx.x_dtype)
        grad_firsts = (grad_low_TS.T @ x_TI).to(firsts[0].dtype).split(ranks)
        return grad_x, None, None, *grad_firsts, *grad_seconds


def _stacked(matrices: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    stacked = matrices[0] if len(matrices) == 1 else torch.cat(tuple(matrices))
    return stacked.to(dtype)


def _plus_product(
    total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    return left @ right if total is None else total.addmm_(left, right)


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x if scale == 1 else x * scale
