"""Packed rows behind a shared prefix equal padded rows that each stand alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mv_lightning.data.batching import pack, pack_contaminated, pad
from mv_lightning.model import adapters, attention, verdict
from mv_lightning.model.attention import (
    ScoreSettings,
    _spans_by_matmul,
    _spans_by_sdpa,
    packed_attention,
)
from mv_lightning.schema import Batch, EncodedRows, Packing


def padded_hidden(
    adapted: torch.nn.Module, encoded: EncodedRows, indices: list[int]
) -> torch.Tensor:
    """Transformers' own attention over rows padded on the right, each with its prefix. [B, D]."""
    model = adapted.get_base_model()
    rows = [torch.tensor([*encoded.prefix_ids, *encoded.row(index)]) for index in indices]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        hidden = model.base_model(
            input_ids=padded, attention_mask=mask, use_cache=False
        ).last_hidden_state
    finally:
        model.set_attn_implementation(before)
    return hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]


@pytest.mark.parametrize(
    ("rows", "indices", "questions"),
    [
        ("encoded", [3, 0, 7, 12], 4),
        ("siblings", [0, 1, 2, 4, 5, 6, 7], 3),
        ("siblings", [4, 0, 5, 1], 4),
    ],
    ids=["own questions", "siblings together", "siblings apart"],
)
def test_packed_equals_padded_in_values_and_gradients(
    tiny: torch.nn.Module,
    request: pytest.FixtureRequest,
    rows: str,
    indices: list[int],
    questions: int,
) -> None:
    encoded: EncodedRows = request.getfixturevalue(rows)
    batch = pack(encoded, np.array(indices), step_rows=len(indices))
    assert len(batch.packing.lengths) == 1 + questions + len(indices)
    trained = adapters.trained_parameters(tiny)
    results = {}
    for name in ("packed", "padded"):
        tiny.zero_grad()
        if name == "packed":
            hidden = verdict.hidden_states(tiny.get_base_model(), batch)[batch.verdict_B]
        else:
            hidden = padded_hidden(tiny, encoded, indices)
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        results[name] = hidden.detach(), {n: p.grad.clone() for n, p in trained.items()}
    torch.testing.assert_close(results["packed"][0], results["padded"][0], atol=2e-5, rtol=2e-5)
    assert len(results["packed"][1]) == 2 * 7 * 2
    for name, gradient in results["padded"][1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(results["packed"][1][name], gradient, atol=1e-4, rtol=1e-3)


def test_a_row_does_not_see_its_neighbours(tiny: torch.nn.Module, encoded: EncodedRows) -> None:
    model = tiny.get_base_model()
    with torch.no_grad():
        together = pack(encoded, np.array([2, 5, 9]), 3)
        alone = pack(encoded, np.array([5]), 1)
        hidden = verdict.hidden_states(model, together)[together.verdict_B[1]]
        expected = verdict.hidden_states(model, alone)[alone.verdict_B[0]]
    torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=2e-5)


def hidden_and_gradients(
    adapted: torch.nn.Module, batch: Batch
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The hidden states at the verdicts [B, D], and the gradients of a weighted sum of them."""
    adapted.zero_grad()
    hidden = verdict.hidden_states(adapted.get_base_model(), batch)[batch.verdict_B]
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    trained = adapters.trained_parameters(adapted)
    return hidden.detach(), {name: p.grad.clone() for name, p in trained.items()}


def test_padding_changes_nothing(tiny: torch.nn.Module, siblings: EncodedRows) -> None:
    """Against clean packing, and against transformers' own padded forward pass."""
    indices = [0, 1, 4, 5]
    clean = hidden_and_gradients(tiny, pack(siblings, np.array(indices), 4))
    padded = hidden_and_gradients(tiny, pad(siblings, np.array(indices), 4))
    torch.testing.assert_close(padded[0], clean[0], atol=2e-5, rtol=2e-5)
    for name, gradient in clean[1].items():
        torch.testing.assert_close(padded[1][name], gradient, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        reference = padded_hidden(tiny, siblings, indices)
    torch.testing.assert_close(padded[0], reference, atol=2e-5, rtol=2e-5)


def test_contaminated_rows_see_those_before_them(
    tiny: torch.nn.Module, siblings: EncodedRows
) -> None:
    """As one text under transformers' own causal mask; the first row is as it is alone."""
    indices = np.array([0, 4, 5])
    batch = pack_contaminated(siblings, indices, 3, ((300, 1), (301, 1)))
    contaminated, _ = hidden_and_gradients(tiny, batch)
    clean, _ = hidden_and_gradients(tiny, pack(siblings, indices, 3))
    torch.testing.assert_close(contaminated[0], clean[0], atol=2e-5, rtol=2e-5)
    for row in (1, 2):
        assert (contaminated[row] - clean[row]).abs().max() > 0.1
    model = tiny.get_base_model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        states = model.base_model(input_ids=batch.ids_T[None], use_cache=False).last_hidden_state
    torch.testing.assert_close(contaminated, states[0, batch.verdict_B], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [None, 1, 4, 7])
@pytest.mark.parametrize("block", [2, 256])
def test_the_ways_of_attending_agree(
    block: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matmuls for a CPU, PyTorch's kernels for a GPU without the varlen call; in blocks or not."""
    monkeypatch.setattr(attention, "BLOCK", block)
    packing, results = Packing((5, 3, 4, 5, 1), (-1, 0, 0, 2, 2)), []
    for attend in (_spans_by_matmul, _spans_by_sdpa):
        rng = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(1, heads, 18, 8, generator=rng).requires_grad_() for heads in (6, 2, 2)
        )
        out = attend(q, k, v, packing, ScoreSettings(0.3, window))
        out.square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    assert results[0][0].shape == (1, 18, 6, 8)
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-4)


def test_dropout_is_refused() -> None:
    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"attention_dropout=0, .* got 0\.1"):
        packed_attention(torch.nn.Module(), x, x, x, None, Packing((1, 3), (-1, 0)), dropout=0.1)


def by_hand(
    query_1HTE: torch.Tensor,
    key_1KTE: torch.Tensor,
    value_1KTE: torch.Tensor,
    packing: Packing,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Each token in turn over the keys on its path; [1, T, H, E]."""
    starts = [0, *np.cumsum(packing.lengths).tolist()]
    group = query_1HTE.shape[1] // key_1KTE.shape[1]
    attended = []
    for span, path in enumerate(packing.paths):
        before = [t for step in path[:-1] for t in range(starts[step], starts[step + 1])]
        for token in range(starts[span], starts[span + 1]):
            seen = [*before, *range(starts[span], token + 1)]
            seen = seen if window is None else seen[-window:]
            heads = []
            for head in range(query_1HTE.shape[1]):
                key, value = (x[0, head // group, seen] for x in (key_1KTE, value_1KTE))
                scores = key @ query_1HTE[0, head, token] * scale
                if softcap is not None:
                    scores = softcap * (scores / softcap).tanh()
                heads.append(scores.softmax(0) @ value)
            attended.append(torch.stack(heads))
    return torch.stack(attended)[None]


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scale", [None, 0.6])
def test_attention_is_what_its_definition_says(
    scale: float | None, window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scale, window and soft cap together, over a tree, in blocks of queries."""
    monkeypatch.setattr(attention, "BLOCK", 2)
    packing = Packing((5, 3, 4, 5, 1), (-1, 0, 0, 2, 2))
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 18, 4, generator=rng) for heads in (6, 2, 2))
    out, weights = packed_attention(
        torch.nn.Module(),
        q,
        k,
        v,
        None,
        packing,
        scaling=scale,
        sliding_window=window,
        softcap=softcap,
    )
    assert weights is None and out.shape == (1, 18, 6, 4)
    expected = by_hand(q, k, v, packing, scale or 0.5, window, softcap)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "capability", "softcap", "expected"),
    [
        (False, torch.bfloat16, (9, 0), None, "_spans_by_matmul"),
        (True, torch.bfloat16, (8, 0), None, "_varlen"),
        (True, torch.float16, (8, 9), None, "_varlen"),
        (True, torch.float16, (7, 5), None, "_spans_by_sdpa"),
        (True, torch.float32, (9, 0), None, "_spans_by_sdpa"),
        (True, torch.bfloat16, (9, 0), 50.0, "_spans_by_matmul"),
    ],
)
def test_the_fastest_way_that_a_device_has_is_taken(
    is_cuda: bool,
    dtype: torch.dtype,
    capability: tuple[int, int],
    softcap: float | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", {"cuda:1": capability}.__getitem__)
    query = SimpleNamespace(is_cuda=is_cuda, dtype=dtype, device="cuda:1")
    chosen = attention._fastest(query, ScoreSettings(1.0, softcap=softcap))
    assert chosen is getattr(attention, expected)


def test_masks_and_span_starts_are_on_the_device_that_is_asked_for() -> None:
    """A device without values stands for a GPU."""
    device, packing = torch.device("meta"), Packing((5, 3, 4), (-1, 0, 0))
    for window in (None, 2):
        visible = attention._visible(2, 5, window, device)
        assert visible.device == device and visible.shape == (3, 5)
    starts_2S = attention.span_starts(packing, device)
    assert starts_2S.device == device and starts_2S.dtype == torch.int32
    starts_2S = attention.span_starts(packing, torch.device("cpu"))
    assert starts_2S.tolist() == [[0, 5, 8, 12], [0, 5, 13, 22]]
