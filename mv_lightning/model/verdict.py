"""The verdict: what training, validation and prediction read from the model.

One forward pass over a packed batch, the hidden state at each row's last prompt token, and what the
head computes from it. Nothing is generated, so no answer can be malformed. Shape suffixes: see
`mv_lightning/schema.py`; P is a number of positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mv_lightning.model.attention import span_starts
from mv_lightning.model.families import family_of, max_row_tokens
from mv_lightning.model.linear_head import linear_head
from mv_lightning.schema import UNLABELLED, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK_TOKENS = 1_024
"""Prompt-loss logits in memory at once: 1,024 x 128,256 in fp32 is half a gigabyte."""


@dataclass(frozen=True)
class OutputHead:
    """The language-model head, what the model's family does to its logits, and a verdict head."""

    linear: torch.nn.Linear
    """Hidden states D to logits V."""
    divisor: float = 1.0
    """The logits are divided by it."""
    softcap: float | None = None
    """The limit c in c x tanh(logits / c), applied last; None for no limit."""
    verdict: torch.nn.Linear | None = None
    """Hidden states to log-odds, see `linear_head`; None where the verdict tokens have them."""

    def logits(self, hidden_PD: torch.Tensor) -> torch.Tensor:
        """Return the logits of the whole vocabulary: [P, V], fp32.

        Args:
            hidden_PD: Last hidden states.
        """
        return self._scaled(self.linear(hidden_PD).float())

    def log_odds(self, hidden_PD: torch.Tensor, verdict_ids: tuple[int, int]) -> torch.Tensor:
        """Return logit(True) - logit(False): [P], fp32, from the head's two verdict rows only, or
        from the verdict head.

        Args:
            hidden_PD: Last hidden states.
            verdict_ids: Token ids of (False, True).
        """
        if self.verdict is not None:
            with torch.autocast(hidden_PD.device.type, enabled=False):
                odds_P1: torch.Tensor = self.verdict(hidden_PD.float())
            return odds_P1[:, 0]
        false_D, true_D = (self.linear.weight[verdict].float() for verdict in verdict_ids)
        with torch.autocast(hidden_PD.device.type, enabled=False):
            if self.softcap is None:
                odds_P = hidden_PD.float() @ (true_D - false_D)
                return odds_P if self.divisor == 1 else odds_P / self.divisor
            logits_P2 = self._scaled(hidden_PD.float() @ torch.stack([false_D, true_D]).T)
            return logits_P2[:, 1] - logits_P2[:, 0]

    def verdict_logits(
        self, hidden_PD: torch.Tensor, verdict_ids: tuple[int, int]
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return the logits in which the verdicts are two classes, and these: [P, V], fp32.

        With a verdict head, there are only the two, and False is at 0: the cross-entropy is the
        binary one of the log-odds.

        Args:
            hidden_PD: Last hidden states.
            verdict_ids: Token ids of (False, True).
        """
        if self.verdict is None:
            return self.logits(hidden_PD), verdict_ids
        odds_P = self.log_odds(hidden_PD, verdict_ids)
        return torch.stack([torch.zeros_like(odds_P), odds_P], dim=1), (0, 1)

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        if self.divisor != 1:
            logits = logits / self.divisor
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def output_head(model: PreTrainedModel) -> OutputHead:
    """Return the head of a base model.

    Args:
        model: A causal model of a supported family.
    """
    family, config = family_of(model.config), model.config
    divisor = getattr(config, family.logit_divisor) if family.logit_divisor else 1.0
    softcap = getattr(config, family.logit_softcap) if family.logit_softcap else None
    return OutputHead(model.lm_head, divisor, softcap, linear_head(model))


def hidden_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Run the base model, adapters included, without its head.

    Args:
        model: A causal model of a supported family, with adapters in place.
        batch: T packed tokens.

    Returns:
        Last hidden states [T, D], after the final norm.

    Raises:
        ValueError: A row is longer than the model's position embeddings allow in a packed batch.
    """
    limit, longest = max_row_tokens(model.config), max(batch.packing.ends)
    if limit is not None and longest > limit:
        raise ValueError(
            f"expected rows of at most {limit} tokens, got one of {longest}: for longer ones this "
            "base model changes the position embeddings of the whole batch. Set data.max_length to "
            f"at most {limit}."
        )
    output = model.base_model(
        input_ids=batch.ids_T[None],
        position_ids=batch.positions_T[None],
        use_cache=False,
        packing=batch.packing,
        span_starts_2S=span_starts(batch.packing, batch.ids_T.device),
    )
    hidden_1TD: torch.Tensor = output.last_hidden_state
    return hidden_1TD[0]


def verdict_loss(
    hidden_TD: torch.Tensor,
    head: OutputHead,
    batch: Batch,
    verdict_ids: tuple[int, int],
    prompt_weight: float = 0,
    label_smoothing: float = 0,
) -> torch.Tensor:
    """Cross-entropy of the correct verdict over the whole vocabulary, optionally with the prompt's.

    With a verdict head, it is the binary cross-entropy of its log-odds. A row's loss is the
    weighted mean over its tokens: weight 1 at the verdict, `prompt_weight` at each predicted prompt
    token. With `prompt_weight` 1 that is plain supervised fine-tuning on every token, as in the
    report.

    Args:
        hidden_TD: Last hidden states.
        head: See `output_head`.
        batch: The batch that `hidden_TD` was computed from.
        verdict_ids: Token ids of (False, True).
        prompt_weight: Weight of a prompt token's loss relative to the verdict's.
        label_smoothing: Share (0 to 1) of a label that is spread evenly over the two verdicts: the
            target of the wrong one is half of it (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        Loss of each row [B], fp32; 0 for rows without a label.
    """
    labelled_B = batch.labels_B != UNLABELLED
    # Without an index from the host, for which a GPU would have to be waited for.
    is_right_B = batch.labels_B == 1
    hidden_BD = hidden_TD.index_select(0, batch.verdict_B)
    logits_BV, (wrong, right) = head.verdict_logits(hidden_BD, verdict_ids)
    target_B = torch.where(is_right_B, right, wrong)
    loss_B = F.cross_entropy(logits_BV, target_B, reduction="none")
    if label_smoothing:
        other_B = torch.where(is_right_B, wrong, right)
        other_loss_B = F.cross_entropy(logits_BV, other_B, reduction="none")
        loss_B = torch.lerp(loss_B, other_loss_B, label_smoothing / 2)
    if prompt_weight:
        prompt_B, tokens_B = _prompt_loss(hidden_TD, head, batch)
        loss_B = (loss_B + prompt_weight * prompt_B) / (1 + prompt_weight * tokens_B)
    return loss_B * labelled_B


def pair_loss(
    odds_B: torch.Tensor, labels_B: torch.Tensor, questions_B: torch.Tensor
) -> torch.Tensor:
    """Bradley-Terry loss of each row against the rows of its question that have the other label.

    A pair of a right and a wrong solution of one question loses -log sigmoid(log-odds of the right
    one - log-odds of the wrong one); that its question is hard or easy cancels. A row's loss is the
    mean over its pairs. So the sum over a question's rows is their number times the mean over its
    pairs: a question counts by its rows, as in `verdict_loss`, and not by its pairs. All pairs of a
    question that are in the batch are compared, as in Ouyang et al. 2022 (arXiv:2203.02155).

    Args:
        odds_B: Log-odds of True.
        labels_B: See `Batch.labels_B`.
        questions_B: See `Batch.questions_B`.

    Returns:
        Loss of each row [B]; 0 for rows without a pair.
    """
    # Rows are the right solutions of pairs, columns the wrong ones.
    pairs_BB = (questions_B[:, None] == questions_B) & (labels_B[:, None] == 1) & (labels_B == 0)
    losses_BB = -F.logsigmoid(odds_B[:, None] - odds_B)
    losses_BB = losses_BB.masked_fill(~pairs_BB, 0)
    n_pairs_B = pairs_BB.sum(0) + pairs_BB.sum(1)
    return (losses_BB.sum(0) + losses_BB.sum(1)) / n_pairs_B.clamp(min=1)


def log_odds(
    hidden_TD: torch.Tensor, head: OutputHead, batch: Batch, verdict_ids: tuple[int, int]
) -> torch.Tensor:
    """Return log P(True) - log P(False) of each row: [B], fp32.

    The softmax's denominator cancels, so that only the head's two verdict rows are needed.

    Args:
        hidden_TD: Last hidden states.
        head: See `output_head`.
        batch: The batch that `hidden_TD` was computed from.
        verdict_ids: Token ids of (False, True).
    """
    return head.log_odds(hidden_TD.index_select(0, batch.verdict_B), verdict_ids)


def _prompt_loss(
    hidden_TD: torch.Tensor, head: OutputHead, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss of each row's prompt tokens [B] and their number [B].

    A shared span's loss is computed once and counts for every row behind it; a span's first token
    is predicted from the last of its parent, and that of a root by nothing.
    """
    packing, device = batch.packing, hidden_TD.device
    roots = [span for span, parent in enumerate(packing.parents) if parent < 0]
    lengths = torch.tensor(packing.lengths, device=device)
    lasts = lengths.cumsum(0) - 1
    source = torch.arange(len(batch.ids_T), device=device) - 1
    firsts = lasts - lengths + 1
    source[firsts] = lasts[list(packing.parents)]
    loss_T = F.pad(_token_losses(hidden_TD, head, source[1:], batch.ids_T[1:]), (1, 0))
    loss_T[firsts[roots]] = 0
    spans_S = torch.stack([loss.sum() for loss in loss_T.split(packing.lengths)])
    summed_B = torch.stack([spans_S[list(row)].sum() for row in packing.rows])
    predicted_B = []
    for row, tokens in zip(packing.rows, packing.row_tokens, strict=True):
        predicted_B.append(tokens - (row[0] in roots))
    return summed_B, torch.tensor(predicted_B, device=device)


def _token_losses(
    hidden_TD: torch.Tensor, head: OutputHead, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of `target` predicted from positions `source`, in chunks of logits."""

    def chunk_losses(hidden_PD: torch.Tensor, target_P: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head.logits(hidden_PD), target_P, reduction="none")

    sources, targets = source.split(_CHUNK_TOKENS), target.split(_CHUNK_TOKENS)
    losses = [
        checkpoint(chunk_losses, hidden_TD[source_P], target_P, use_reentrant=False)
        for source_P, target_P in zip(sources, targets, strict=True)
    ]
    return torch.cat(losses)
