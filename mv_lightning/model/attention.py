"""Attention over packed rows that share prefixes.

Rows are laid end to end in one sequence behind the instruction that all of them share; rows of one
question may share its tokens too. Each row attends to its shared prefixes and, causally, to itself;
never to another row. Under causal attention a prefix does not depend on what follows it, so
computing it once is exact, in values and in gradients.

The function is plugged into transformers through its `AttentionInterface`; the `Packing` is passed
to every layer as a keyword argument. What a family of models has besides (a sliding window,
soft-capped scores, a scale) is passed by its layers and applied here. Shape suffixes: see
`mv_lightning/schema.py`; K is the key/value heads, E the size of a head.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mv_lightning.schema import Packing

NAME = "mv_lightning_packed"
"""What a model's `attn_implementation` is set to."""
BLOCK = 256
"""Queries per block: of 128, 256, 384, 512 the fastest or nearly so on a CPU, for spans of 160 to
1,600 tokens."""


@dataclass(frozen=True)
class ScoreSettings:
    """How a layer computes its attention scores."""

    scale: float
    """Factor on the scores."""
    window: int | None = None
    """Keys that a query may see, its own included; None for all before it."""
    softcap: float | None = None
    """Scores are limited to softcap x tanh(scores / softcap); None for no limit."""
    span_starts_2S: torch.Tensor | None = None
    """What `span_starts` returned; None to compute it when it is needed."""


def register() -> None:
    """Make the attention known to transformers under `NAME`.

    No mask function is registered: the packing says what may be attended to, and transformers makes
    no mask for a name that it has no mask function for. With one it would search the positions for
    packed rows before every forward pass, and wait for the GPU's answer.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    span_starts_2S: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend along the rows of a tree.

    Args:
        module: The calling attention layer; unused, part of transformers' signature.
        query_1HTE: Queries of the packed sequence.
        key_1KTE: Keys, K dividing H (grouped queries).
        value_1KTE: Values.
        attention_mask: Always None, see `register`.
        packing: The spans of the sequence and their parents.
        scaling: Factor on the scores; None for 1 / sqrt(E).
        dropout: Must be 0: packed training does not drop attention weights.
        sliding_window: See `ScoreSettings`.
        softcap: See `ScoreSettings`.
        span_starts_2S: See `ScoreSettings`.
        kwargs: What else transformers passes.

    Returns:
        The attended values [1, T, H, E], and None for the weights.

    Raises:
        ValueError: The base model's config sets dropout.
    """
    if dropout:
        raise ValueError(
            "expected a base model with attention_dropout=0, which packed attention does not have, "
            f"got {dropout}. Set it to 0 in the base's config.json."
        )
    scale = query_1HTE.shape[-1] ** -0.5 if scaling is None else scaling
    settings = ScoreSettings(scale, sliding_window, softcap, span_starts_2S)
    attend = _fastest(query_1HTE, settings)
    return attend(query_1HTE, key_1KTE, value_1KTE, packing, settings), None


def _fastest(query: torch.Tensor, settings: ScoreSettings) -> Callable[..., torch.Tensor]:
    """Varlen needs compute capability 8.0 and half precision; no fused kernel has a soft cap."""
    if not query.is_cuda or settings.softcap is not None:
        return _spans_by_matmul
    in_16_bits = query.dtype in (torch.float16, torch.bfloat16)
    if in_16_bits and torch.cuda.get_device_capability(query.device) >= (8, 0):
        return _varlen
    return _spans_by_sdpa


def _spans_by_sdpa(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    settings: ScoreSettings,
) -> torch.Tensor:
    """Span by span through PyTorch's kernels: for GPUs without the varlen call.

    Keys and values are repeated for the queries that share them. With `enable_gqa` and a mask, GPUs
    of that age would compute in plain matmuls and store all scores in fp32.
    """
    group = query_1HTE.shape[1] // key_1KTE.shape[1]
    key_1HTE, value_1HTE = (x.repeat_interleave(group, 1) for x in (key_1KTE, value_1KTE))

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, scale=settings.scale
        )

    return _span_by_span(attend, query_1HTE, key_1HTE, value_1HTE, packing, settings.window)


def _spans_by_matmul(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    settings: ScoreSettings,
) -> torch.Tensor:
    """Span by span as two matmuls: on a CPU, backward takes a quarter of the flash kernel's time.

    The queries that share a key head are stacked, so that keys are never repeated. Scores are
    stored for the backward pass: H x length x keys numbers for each span and layer.
    """
    heads, size = query_1HTE.shape[1], query_1HTE.shape[3]

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        length, group = query.shape[2], heads // key.shape[1]
        bias = torch.zeros_like(visible, dtype=query.dtype)
        bias = bias.masked_fill(~visible, float("-inf")).repeat(group, 1)
        stacked = query.reshape(key.shape[1], group * length, size)
        if settings.softcap is None:
            scores = torch.baddbmm(bias, stacked, key[0].mT, alpha=settings.scale)
        else:
            scores = stacked @ key[0].mT * (settings.scale / settings.softcap)
            scores = scores.tanh() * settings.softcap + bias
        return (scores.softmax(-1) @ value[0]).view(1, heads, length, size)

    return _span_by_span(attend, query_1HTE, key_1KTE, value_1KTE, packing, settings.window)


def _span_by_span(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    window: int | None,
) -> torch.Tensor:
    """Call `attend` for blocks of queries of every span, with their keys and the mask over them.

    A block gets no keys behind it or before its window: of a long span nearly half of the scores
    would be masked.
    """
    queries = query_1HTE.split(packing.lengths, dim=2)
    keys = key_1KTE.split(packing.lengths, dim=2)
    values = value_1KTE.split(packing.lengths, dim=2)
    attended = []
    for span, path in zip(queries, packing.paths, strict=True):
        key = torch.cat([keys[step] for step in path], dim=2)
        value = torch.cat([values[step] for step in path], dim=2)
        stop = key.shape[2] - span.shape[2]
        for query in span.split(BLOCK, dim=2):
            start, stop = stop, stop + query.shape[2]
            first = 0 if window is None else max(0, start - window + 1)
            visible = _visible(start - first, stop - first, window, query.device)
            attended.append(attend(query, key[:, :, first:stop], value[:, :, first:stop], visible))
    return torch.cat(attended, dim=2).transpose(1, 2)


def _visible(start: int, stop: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which of the keys before `stop` the queries `start` to `stop` see: bool [queries, keys]."""
    visible = torch.ones(stop - start, stop, dtype=torch.bool, device=device).tril(start)
    return visible if window is None else visible.triu(start - window + 1)


def span_starts(packing: Packing, device: torch.device) -> torch.Tensor:
    """Return the index of a packed sequence for the varlen call, once for all layers.

    Args:
        packing: S spans.
        device: Where to; a GPU is not waited for.

    Returns:
        int32 [2, S + 1]: the starts of the spans among the queries, and of their paths among the
        repeated keys.
    """
    starts = [0, *itertools.accumulate(packing.lengths)]
    key_starts = [0, *itertools.accumulate(packing.ends)]
    index = torch.tensor([starts, key_starts], dtype=torch.int32)
    if device.type == "cuda":
        index = index.pin_memory()
    return index.to(device, non_blocking=True)


def _varlen(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    settings: ScoreSettings,
) -> torch.Tensor:
    """One flash-attention call: every span is a sequence, with its own keys and its prefixes'.

    With more keys than queries the kernel aligns the causal mask to the end, which is what a span
    behind others needs. Copying shared keys to every row costs memory for prefix x rows, a small
    share of the activations.
    """
    from torch.nn.attention import varlen

    starts_2S = settings.span_starts_2S
    if starts_2S is None:
        starts_2S = span_starts(packing, query_1HTE.device)
    query_THE, key_TKE, value_TKE = (
        x[0].transpose(0, 1) for x in (query_1HTE, key_1KTE, value_1KTE)
    )
    options: dict[str, Any] = {}
    if query_THE.shape[1] != key_TKE.shape[1] and _accepts_gqa(varlen.varlen_attn):
        options["enable_gqa"] = True
    keys, values = _RepeatPrefixes.apply(key_TKE, value_TKE, packing)
    attended: Any = varlen.varlen_attn(
        query_THE.contiguous(),
        keys,
        values,
        starts_2S[0],
        starts_2S[1],
        max(packing.lengths),
        max(packing.ends),
        scale=settings.scale,
        # The kernel does not count the query's own key as a part of the window.
        window_size=(-1 if settings.window is None else settings.window - 1, 0),
        **options,
    )
    values_1THE: torch.Tensor = attended.unsqueeze(0)
    return values_1THE


@functools.lru_cache
def _accepts_gqa(varlen_attn: Callable[..., Any]) -> bool:
    """PyTorch 2.11 groups heads without being asked, and has no such argument."""
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


class _RepeatPrefixes(torch.autograd.Function):
    """The keys and the values of every span's path, path after path.

    Indexing would do the same, but its backward pass sorts the indices.
    """

    @staticmethod
    def forward(
        ctx: Any, key_TKE: torch.Tensor, value_TKE: torch.Tensor, packing: Packing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.packing = packing
        keys, values = (x.split(packing.lengths) for x in (key_TKE, value_TKE))
        steps = [step for path in packing.paths for step in path]
        return torch.cat([keys[step] for step in steps]), torch.cat(
            [values[step] for step in steps]
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_key: torch.Tensor, grad_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        packing: Packing = ctx.packing
        steps = [step for path in packing.paths for step in path]
        by_span: list[list[torch.Tensor]] = [[] for _ in packing.lengths]
        # Both at once: half as many operators.
        grads = torch.stack([grad_key, grad_value])
        pieces = grads.split([packing.lengths[step] for step in steps], dim=1)
        for step, piece in zip(steps, pieces, strict=True):
            by_span[step].append(piece)
        summed = torch.cat([_sum(pieces) for pieces in by_span], dim=1)
        return summed[0], summed[1], None


def _sum(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return a sum that is rounded once."""
    if len(tensors) == 1:
        return tensors[0]
    return tensors[0] + tensors[1] if len(tensors) == 2 else torch.stack(tensors).sum(0)
