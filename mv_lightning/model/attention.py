"""Attention over packed rows that share what they start with.

Rows lie end to end in one sequence behind the instruction that all of them start with; rows of one question may share
its tokens too. Each row attends to what it starts with and, causally, to itself; never to another row. Under causal
attention a prefix does not depend on what follows it, so computing it once is exact, in values and in gradients.

The function is plugged into transformers through its `AttentionInterface`; the `Packing` travels to every layer as a
keyword argument. Shape suffixes: see `mv_lightning/schema.py`; K is the key/value heads, E the size of one head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from mv_lightning.schema import Packing

NAME = "mv_lightning_packed"
"""What a model's `attn_implementation` is set to."""
BLOCK = 256
"""Queries taken together: of 128, 256, 384, 512 the best or nearly so on a CPU, for spans of 160 to 1,600 tokens."""


def register() -> None:
    """Make the attention known to transformers under `NAME`.

    The mask function is registered too, and makes none: without one transformers would leave the choice of mask to
    its own rules, and the packing says all there is to say.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def packed_attention(
    module: torch.nn.Module,
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend along the rows of a tree.

    Args:
        module: The calling attention layer; unused, part of transformers' signature.
        query_1HTE: Queries of the packed sequence.
        key_1KTE: Keys, K dividing H (grouped queries).
        value_1KTE: Values.
        attention_mask: Always None, see `register`.
        packing: Where the rows lie.
        scaling: Factor on the scores; None for 1 / sqrt(E).
        dropout: Must be 0: packed training does not drop attention weights.
        kwargs: What transformers passes along.

    Returns:
        The attended values [1, T, H, E], and None for the weights.

    Raises:
        ValueError: Dropout was asked for.
    """
    if dropout:
        raise ValueError(
            f"packed attention has no dropout, but the base model asks for attention_dropout={dropout}"
        )
    attend = _fastest(query_1HTE)
    return attend(query_1HTE, key_1KTE, value_1KTE, packing, scaling), None


def _fastest(query: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The varlen call needs compute capability 8.0 and half precision; a T4 goes span by span."""
    if not query.is_cuda:
        return _spans_by_matmul
    half = query.dtype in (torch.float16, torch.bfloat16)
    return (
        _varlen
        if half and torch.cuda.get_device_capability(query.device) >= (8, 0)
        else _spans_by_sdpa
    )


def _spans_by_sdpa(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    scaling: float | None,
) -> torch.Tensor:
    """Span by span through PyTorch's own kernels, which never hold the scores: for cards without the varlen call."""

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: torch.Tensor
    ) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=causal,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )

    return _span_by_span(attend, query_1HTE, key_1KTE, value_1KTE, packing)


def _spans_by_matmul(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    scaling: float | None,
) -> torch.Tensor:
    """Span by span as two plain products: on a CPU the backward pass takes a quarter of the flash kernel's time.

    The queries that share a key head are laid under each other, so that keys are never repeated. Scores are held
    for the backward pass: H x length x keys numbers a span and layer.
    """
    heads, size = query_1HTE.shape[1], query_1HTE.shape[3]
    scale = size**-0.5 if scaling is None else scaling

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: torch.Tensor
    ) -> torch.Tensor:
        length, group = query.shape[2], heads // key.shape[1]
        bias = (
            torch.zeros_like(causal, dtype=query.dtype)
            .masked_fill(~causal, float("-inf"))
            .repeat(group, 1)
        )
        stacked = query.reshape(key.shape[1], group * length, size)
        weights = torch.baddbmm(bias, stacked, key[0].mT, alpha=scale).softmax(-1)
        return (weights @ value[0]).view(1, heads, length, size)

    return _span_by_span(attend, query_1HTE, key_1KTE, value_1KTE, packing)


def _span_by_span(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
) -> torch.Tensor:
    """Call `attend` for blocks of queries of every span, with the keys that they may see and the causal mask over them.

    A block is given no keys behind it: of a long span nearly half of the scores would be masked.
    """
    queries, keys, values = (
        x.split(packing.lengths, dim=2) for x in (query_1HTE, key_1KTE, value_1KTE)
    )
    attended = []
    for span, path in zip(queries, packing.paths, strict=True):
        k, v = (torch.cat([spans[step] for step in path], dim=2) for spans in (keys, values))
        seen = k.shape[2] - span.shape[2]
        for q in span.split(BLOCK, dim=2):
            seen += q.shape[2]
            causal = torch.ones(q.shape[2], seen, dtype=torch.bool, device=q.device).tril(
                seen - q.shape[2]
            )
            attended.append(attend(q, k[:, :, :seen], v[:, :, :seen], causal))
    return torch.cat(attended, dim=2).transpose(1, 2)


def _varlen(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    scaling: float | None,
) -> torch.Tensor:
    """One flash-attention call: every span is a sequence, whose keys are those on the way to it and its own.

    With more keys than queries the kernel aligns the causal mask to the end, which is what a span behind others needs.
    Copying shared keys to every row costs memory for prefix x rows, a small share of the activations.
    """
    from torch.nn.attention.varlen import varlen_attn

    device = query_1HTE.device
    starts, key_starts = (
        torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)
        for lengths in (packing.lengths, packing.ends)
    )
    own = torch.arange(query_1HTE.shape[2], device=device).split(packing.lengths)
    gather = torch.cat([own[step] for path in packing.paths for step in path])
    query_THE, key_TKE, value_TKE = (
        x[0].transpose(0, 1) for x in (query_1HTE, key_1KTE, value_1KTE)
    )
    attended: Any = varlen_attn(
        query_THE.contiguous(),
        key_TKE[gather],
        value_TKE[gather],
        starts,
        key_starts,
        max(packing.lengths),
        max(packing.ends),
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query_THE.shape[1] != key_TKE.shape[1],
    )
    values_1THE: torch.Tensor = attended.unsqueeze(0)
    return values_1THE
