"""The call for CUDA, run on the CPU: PyTorch's own varlen operator with kernels made for the
test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from mv_lightning.model.attention import (
    ScoreSettings,
    _accepts_gqa,
    _spans_by_matmul,
    _varlen,
    span_starts,
)
from mv_lightning.schema import Packing

PACKING = Packing((5, 3, 4, 5, 1), (-1, 0, 0, 2, 2))


def weights_of(query: Any, key: Any, scale: float, left: int) -> torch.Tensor:
    """Attention weights of one sequence, causal to the end of its keys: [H, queries, keys]."""
    scores = torch.einsum("qhe,khe->hqk", query, key) * scale
    position = torch.arange(len(query))[:, None] + len(key) - len(query)
    hidden = torch.arange(len(key)) > position
    if left >= 0:
        hidden |= torch.arange(len(key)) < position - left
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)


def attend(query: Any, key: Any, value: Any, scale: float, left: int) -> torch.Tensor:
    weights = weights_of(query, key, scale, left)
    return torch.einsum("hqk,khe->qhe", weights, value)


def gradients(grad: Any, query: Any, key: Any, value: Any, scale: float, left: int) -> Any:
    weights = weights_of(query, key, scale, left)
    grad_weights = torch.einsum("qhe,khe->hqk", grad, value)
    mean = (grad_weights * weights).sum(-1, keepdim=True)
    grad_scores = weights * (grad_weights - mean) * scale
    return (
        torch.einsum("hqk,khe->qhe", grad_scores, key),
        torch.einsum("hqk,qhe->khe", grad_scores, query),
        torch.einsum("hqk,qhe->khe", weights, grad),
    )


def sequences(tensors: Any, starts: Any, key_starts: Any) -> Any:
    """Queries (and what has their shape), keys and values of every sequence, heads repeated."""
    *like_queries, key, value = tensors
    group = like_queries[0].shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    spans = zip(starts[:-1], starts[1:], key_starts[:-1], key_starts[1:], strict=True)
    for start, stop, key_start, key_stop in spans:
        queries = [x[start:stop] for x in like_queries]
        yield *queries, key[key_start:key_stop], value[key_start:key_stop]


def check(tensors: Any, starts: Any, key_starts: Any, max_q: int, max_k: int) -> None:
    """What the CUDA kernel requires."""
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert starts.dtype is key_starts.dtype is torch.int32
    assert starts.is_contiguous() and key_starts.is_contiguous()
    assert starts.diff().max() == max_q and key_starts.diff().max() == max_k
    assert starts[-1] == len(tensors[0]) and key_starts[-1] == len(tensors[1])


def forward(
    q: Any, k: Any, v: Any, starts: Any, key_starts: Any, max_q: int, max_k: int,
    is_causal: bool = False, scale: Any = None, window_size: Any = None, enable_gqa: bool = False,
    *rest: Any,
) -> Any:  # fmt: skip
    check((q, k, v), starts, key_starts, max_q, max_k)
    assert enable_gqa == (q.shape[1] != k.shape[1]) and is_causal == (window_size == [-1, 0])
    rows = sequences((q, k, v), starts, key_starts)
    out = torch.cat([attend(*row, scale, window_size[0]) for row in rows])
    return out, torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


def backward(
    grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, starts: Any, key_starts: Any,
    max_q: int, max_k: int, is_causal: bool, rng: Any, scale: Any = None, window_size: Any = None,
) -> Any:  # fmt: skip
    check((q, k, v), starts, key_starts, max_q, max_k)
    rows = sequences((grad, q, k, v), starts, key_starts)
    parts = zip(*[gradients(*row, scale, window_size[0]) for row in rows], strict=True)
    grad_q, grad_k, grad_v = (torch.cat(part) for part in parts)
    ungrouped = (len(k), k.shape[1], -1, k.shape[2])
    return grad_q, grad_k.view(ungrouped).sum(2), grad_v.view(ungrouped).sum(2)


@pytest.fixture
def cpu_kernels() -> Iterator[None]:
    library = torch.library.Library("torch_attn", "IMPL")
    library.impl("_varlen_attn", forward, "CPU")
    library.impl("_varlen_attn_backward", backward, "CPU")
    yield
    library._destroy()


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("starts_given", [True, False])
def test_varlen_equals_span_by_span(
    heads: int, window: int | None, starts_given: bool, cpu_kernels: None
) -> None:
    starts_2S = span_starts(PACKING, torch.device("cpu")) if starts_given else None
    settings, results = ScoreSettings(0.3, window, span_starts_2S=starts_2S), []
    for attend_packed in (_spans_by_matmul, _varlen):
        rng = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, h, 18, 8, generator=rng).requires_grad_() for h in (heads, 2, 2))
        out = attend_packed(q, k, v, PACKING, settings)
        (out * torch.randn(out.shape, generator=rng)).sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_pytorch_2_11_has_no_argument_for_grouped_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    def varlen_attn(
        query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int,
        *, return_aux: Any = None, scale: Any = None, window_size: Any = (-1, -1),
    ) -> torch.Tensor:  # fmt: skip
        return torch.zeros_like(query)

    assert _accepts_gqa(varlen.varlen_attn) and not _accepts_gqa(varlen_attn)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    q, k = torch.zeros(1, 4, 18, 8), torch.zeros(1, 2, 18, 8)
    assert _varlen(q, k, k, PACKING, ScoreSettings(0.3)).shape == (1, 18, 4, 8)
