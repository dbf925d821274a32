"""The verdict: the one thing that training, validation and prediction read from the model.

One forward pass over a packed batch, the hidden state at each row's last prompt token, and what the head makes of
it. Nothing is generated, so no answer can be malformed. Shape suffixes: see `mv_lightning/schema.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mv_lightning.schema import UNLABELLED, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK_TOKENS = 1_024  # prompt-loss logits held at once: 1,024 x 128,256 fp32 is half a gigabyte


def hidden_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Run the base model, adapters included, without its head.

    Args:
        model: A causal model of transformers, with adapters in place.
        batch: T packed tokens.

    Returns:
        Last hidden states [T, D], after the final norm.
    """
    output = model.base_model(
        input_ids=batch.ids_T[None],
        position_ids=batch.positions_T[None],
        use_cache=False,
        packing=batch.packing,
    )
    hidden_1TD: torch.Tensor = output.last_hidden_state
    return hidden_1TD[0]


def verdict_loss(
    hidden_TD: torch.Tensor,
    head: torch.nn.Module,
    batch: Batch,
    verdict_ids: tuple[int, int],
    prompt_weight: float = 0,
) -> torch.Tensor:
    """Cross-entropy of the right verdict over the whole vocabulary, optionally with that of the prompt's tokens.

    A row's loss is the weighted mean over its tokens: weight 1 at the verdict, `prompt_weight` at each predicted
    prompt token. With `prompt_weight` 1 that is plain supervised fine-tuning on every token, as in the report.

    Args:
        hidden_TD: Last hidden states.
        head: The language-model head, D to V.
        batch: The batch that `hidden_TD` came from.
        verdict_ids: Token ids of (False, True).
        prompt_weight: Weight of a prompt token's loss against the verdict's.

    Returns:
        Loss of each row [B], fp32; 0 for rows without a label.
    """
    labelled_B = batch.labels_B != UNLABELLED
    target_B = torch.tensor(verdict_ids, device=hidden_TD.device)[batch.labels_B.clamp(min=0)]
    loss_B = F.cross_entropy(head(hidden_TD[batch.verdict_B]).float(), target_B, reduction="none")
    if prompt_weight:
        prompt_B, tokens_B = _prompt_loss(hidden_TD, head, batch)
        loss_B = (loss_B + prompt_weight * prompt_B) / (1 + prompt_weight * tokens_B)
    return loss_B * labelled_B


def log_odds(
    hidden_TD: torch.Tensor, head: torch.nn.Linear, batch: Batch, verdict_ids: tuple[int, int]
) -> torch.Tensor:
    """Return log P(True) - log P(False) of each row: [B], fp32.

    The softmax's denominator cancels, so only the head's two verdict rows are needed.

    Args:
        hidden_TD: Last hidden states.
        head: The language-model head.
        batch: The batch that `hidden_TD` came from.
        verdict_ids: Token ids of (False, True).
    """
    false_D, true_D = head.weight[list(verdict_ids)].float()
    with torch.autocast(hidden_TD.device.type, enabled=False):
        odds_B: torch.Tensor = hidden_TD[batch.verdict_B].float() @ (true_D - false_D)
    return odds_B


def _prompt_loss(
    hidden_TD: torch.Tensor, head: torch.nn.Module, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss of each row's prompt tokens [B] and their number [B].

    A row's tokens are those of the spans on the way to it. A shared span's loss is computed once and counts for every
    row behind it; a span's first token is predicted from the last of the span that it continues.
    """
    packing, device = batch.packing, hidden_TD.device
    lengths = torch.tensor(packing.lengths, device=device)
    lasts = lengths.cumsum(0) - 1
    source = torch.arange(len(batch.ids_T), device=device) - 1
    # The root's first token is predicted by nothing; what stands in its place is left out.
    source[lasts - lengths + 1] = lasts[list(packing.parents)]
    loss_T = F.pad(_token_losses(hidden_TD, head, source[1:], batch.ids_T[1:]), (1, 0))
    spans_S = torch.stack([loss.sum() for loss in loss_T.split(packing.lengths)])
    summed_B = torch.stack([spans_S[list(packing.paths[leaf])].sum() for leaf in packing.leaves])
    return summed_B, torch.tensor(
        [packing.ends[leaf] - 1 for leaf in packing.leaves], device=device
    )


def _token_losses(
    hidden_TD: torch.Tensor, head: torch.nn.Module, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of `target` predicted at the positions `source`, a chunk of logits at a time."""

    def chunk(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(hidden).float(), wanted, reduction="none")

    parts = [
        checkpoint(chunk, hidden_TD[positions], wanted, use_reentrant=False)
        for positions, wanted in zip(
            source.split(_CHUNK_TOKENS), target.split(_CHUNK_TOKENS), strict=True
        )
    ]
    return torch.cat(parts)
