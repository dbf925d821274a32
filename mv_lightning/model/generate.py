"""The report's way of prediction: let the model write, then search its text for the verdict.

It is the reference for the verdict that one forward pass gives, and slower: up to 64 passes, and a
text may contain no verdict at all. Shape suffixes: see `mv_lightning/schema.py`; L is the longest
row of a batch, its prefix included, W the new tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mv_lightning.schema import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NEW_TOKENS = 64
MALFORMED = 0.0
"""Instead of log-odds where a text has no verdict: not above 0, so the row counts as False."""
_ODDS = {True: 1.0, False: -1.0, None: MALFORMED}
# The word's end is not checked: what follows the verdict was never trained.
_VERDICT = re.compile(r"(?<![a-z])(?:(true)|false)", re.IGNORECASE)


def generate(model: PreTrainedModel, batch: Batch, pad_id: int) -> torch.Tensor:
    """Continue every row greedily, with a KV cache.

    For this the rows are unpacked, each with its own prefix and padded on the left: a cache does
    not support packed rows. Keys and values take memory for B times the longest row, so that a
    smaller `data.eval_tokens` may be needed.

    Args:
        model: A causal model with packed attention, in evaluation mode.
        batch: B rows.
        pad_id: Any token: it is masked before a row, and fills what is after its text.

    Returns:
        The new tokens [B, W] of at most `MAX_NEW_TOKENS`; fewer where all texts ended before.
    """
    spans = batch.ids_T.split(batch.packing.lengths)
    rows = []
    for row_spans in batch.packing.rows:
        rows.append(torch.cat([spans[span] for span in row_spans]))
    longest = max(map(len, rows))
    ids_BL = batch.ids_T.new_full((len(rows), longest), pad_id)
    mask_BL = torch.zeros_like(ids_BL)
    for index, row in enumerate(rows):
        ids_BL[index, longest - len(row) :] = row
        mask_BL[index, longest - len(row) :] = 1
    with _padded_attention(model):
        # Without sampling the base's own temperature and top_p have no effect but a warning.
        written: torch.Tensor = model.generate(
            ids_BL,
            attention_mask=mask_BL,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            pad_token_id=pad_id,
            use_cache=True,
        )
    return written[:, longest:]


def find_verdict(text: str) -> bool | None:
    """Return the first True or False that begins a word, in any case; None if there is none.

    Args:
        text: What the model wrote.
    """
    match = _VERDICT.search(text)
    return None if match is None else match[1] is not None


def verdict_odds(texts: list[str]) -> torch.Tensor:
    """Return scores instead of log-odds: [B], fp32.

    1 for True, -1 for False, `MALFORMED` for neither.

    A text gives no probability: the scores only keep the verdict and its order.

    Args:
        texts: What the model wrote of B rows.
    """
    return torch.tensor([_ODDS[find_verdict(text)] for text in texts])


@contextmanager
def _padded_attention(model: PreTrainedModel) -> Iterator[None]:
    packed = model.config._attn_implementation
    # Not every family's attention can be computed by PyTorch's own: a soft cap cannot.
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(packed)
