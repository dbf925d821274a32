"""What is written after the prompt, against the plain forward pass, and what is read from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mv_lightning.data.batching import pack
from mv_lightning.model import attention, verdict
from mv_lightning.model.generate import (
    MALFORMED,
    MAX_NEW_TOKENS,
    find_verdict,
    generate,
    verdict_odds,
)
from mv_lightning.schema import EncodedRows


@pytest.fixture
def writing(tiny: torch.nn.Module) -> torch.nn.Module:
    return tiny.eval().get_base_model()


def test_the_first_token_is_the_likeliest_of_the_packed_pass(
    writing: torch.nn.Module, encoded: EncodedRows
) -> None:
    batch = pack(encoded, np.arange(6), 6)
    with torch.no_grad():
        new_BW = generate(writing, batch, pad_id=1)
        hidden_TD = verdict.hidden_states(writing, batch)
        likeliest_B = writing.lm_head(hidden_TD[batch.verdict_B]).argmax(-1)
    assert new_BW.shape[0] == 6 and 1 <= new_BW.shape[1] <= MAX_NEW_TOKENS
    assert torch.equal(new_BW[:, 0], likeliest_B)


def test_rows_of_one_question_are_written_whole(
    writing: torch.nn.Module, siblings: EncodedRows
) -> None:
    together = generate(writing, pack(siblings, np.arange(8), 8), pad_id=1)
    for place in range(8):
        alone = generate(writing, pack(siblings, np.array([place]), 1), pad_id=1)[0]
        assert torch.equal(together[place, : len(alone)], alone)


def test_a_text_does_not_depend_on_its_batch(
    writing: torch.nn.Module, encoded: EncodedRows
) -> None:
    """Rows of very different lengths, so that most of them are padded."""
    together = [
        generate(writing, pack(encoded, order, 16), pad_id=1)
        for order in (np.arange(16), np.arange(16)[::-1])
    ]
    assert torch.equal(together[0], together[1].flip(0))
    for place in (0, 7, 15):
        alone = generate(writing, pack(encoded, np.array([place]), 1), pad_id=1)[0]
        assert torch.equal(together[0][place, : len(alone)], alone)


def test_the_cache_changes_nothing(writing: torch.nn.Module, encoded: EncodedRows) -> None:
    """Every token is the likeliest one behind all the tokens before it."""
    (new_W,) = generate(writing, pack(encoded, np.array([3]), 1), pad_id=1)
    prompt = pack(encoded, np.array([3]), 1).ids_T
    writing.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits_TV = writing(torch.cat([prompt, new_W])[None], use_cache=False).logits[0]
    assert torch.equal(logits_TV[len(prompt) - 1 : -1].argmax(-1), new_W)


def test_packed_attention_is_back_afterwards(
    writing: torch.nn.Module, encoded: EncodedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(writing, pack(encoded, np.arange(2), 2), pad_id=1)
    assert writing.config._attn_implementation == attention.NAME
    monkeypatch.setattr(writing, "generate", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(writing, pack(encoded, np.arange(2), 2), pad_id=1)
    assert writing.config._attn_implementation == attention.NAME


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" True", True),
        (" False", False),
        ("\nFALSE: it should be true.", False),
        ("The answer is (true).", True),
        ("true/false", True),
        (" True7True", True),
        ("FalseTrue", False),
        ("untrue", None),
        ("", None),
        (" 42 42 42", None),
    ],
)
def test_the_first_verdict_of_a_text(text: str, found: bool | None) -> None:
    assert find_verdict(text) is found


def test_no_verdict_is_a_verdict_of_false() -> None:
    odds_B = verdict_odds([" True", " False", " ?"])
    assert odds_B.tolist() == [1, -1, MALFORMED]
    assert (odds_B > 0).tolist() == [True, False, False]
