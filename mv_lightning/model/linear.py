"""A quantized projection and its adapter as one operation.

PEFT computes the base's matmul, copies its result, computes the adapter's two matmuls, scales, and
adds: five passes over the activations besides the matmuls, and as many again backward. Here the
adapter's result is added into the base's, and the backward pass consists of matmuls only. Shape
suffixes: see `mv_lightning/schema.py`; I is a projection's inputs, O its outputs, R the rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from torch.autograd.function import once_differentiable

from mv_lightning.model.quantization import dequantize


class FusedLinear4bit(PeftLinear4bit):
    """PEFT's adapted 4-bit layer with another forward pass.

    Everything else is PEFT's: names, initialisation, saving, merging. So is the forward pass of a
    merged or disabled adapter, or of one with dropout, whose input is not the base's.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return x W^T + bias + scale (x A^T) B^T, in autocast's dtype or else the base's."""
        (name,) = self.active_adapters
        if (
            self.disable_adapters
            or self.merged
            or not isinstance(self.lora_dropout[name], torch.nn.Identity)
        ):
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        base: Linear4bit = self.base_layer
        dtype = base.compute_dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        out: torch.Tensor = _LoraMatmul.apply(
            x,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            base.weight,
            base.bias,
            self.scaling[name],
            dtype,
        )
        return out


class _LoraMatmul(torch.autograd.Function):
    """The adapter's weights are rounded to `dtype` for the matmuls; their gradients are not.

    The bias is the base's and frozen: it gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: torch.Tensor,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        packed: Any,
        bias_O: torch.Tensor | None,
        scale: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.packed, ctx.scale, ctx.shape, ctx.x_dtype = packed, scale, x_TI.shape, x_TI.dtype
        x_TI = x_TI.reshape(-1, x_TI.shape[-1]).to(dtype)
        low_TR = x_TI @ a_RI.to(dtype).T
        bias_O = bias_O if bias_O is None else bias_O.to(dtype)
        out_TO = F.linear(x_TI, dequantize(packed, dtype), bias_O)
        out_TO.addmm_(low_TR, b_OR.to(dtype).T, alpha=scale)
        # Not the rounded adapters: until the backward pass, those of all layers would take two
        # bytes a weight.
        ctx.save_for_backward(x_TI, low_TR, a_RI, b_OR)
        return out_TO.view(*ctx.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, low_TR, a_RI, b_OR = ctx.saved_tensors
        dtype = x_TI.dtype
        grad_TO = grad.reshape(-1, grad.shape[-1]).to(dtype)
        grad_low_TR = grad_TO @ _scaled(b_OR.to(dtype), ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_TI = grad_TO @ dequantize(ctx.packed, dtype)
            grad_x = grad_TI.addmm_(grad_low_TR, a_RI.to(dtype)).view(ctx.shape).to(ctx.x_dtype)
        grad_a_RI = (grad_low_TR.T @ x_TI).to(a_RI.dtype)
        grad_b_OR = (grad_TO.T @ _scaled(low_TR, ctx.scale)).to(b_OR.dtype)
        return grad_x, grad_a_RI, grad_b_OR, None, None, None, None


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x if scale == 1 else x * scale
