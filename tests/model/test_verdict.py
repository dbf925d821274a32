"""The verdict's loss and log-odds against the plain causal language model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from mv_lightning.data.batching import MicroBatch, PackedRows, pack, training_micro_batches
from mv_lightning.model import adapters, verdict
from mv_lightning.schema import EncodedRows


def test_log_odds_are_the_difference_of_log_probabilities(
    tiny: torch.nn.Module, encoded: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    batch = pack(encoded, np.arange(4), 4)
    model = tiny.get_base_model()
    with torch.no_grad():
        hidden = verdict.hidden_states(model, batch)
        log_probabilities = F.log_softmax(model.lm_head(hidden[batch.verdict_B]), dim=-1)
        odds = verdict.log_odds(hidden, verdict.output_head(model), batch, verdict_ids)
    false, true = verdict_ids
    torch.testing.assert_close(
        odds, log_probabilities[:, true] - log_probabilities[:, false], atol=1e-4, rtol=1e-4
    )


def test_prompt_weight_one_is_plain_fine_tuning(
    tiny: torch.nn.Module, siblings: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    """Each row by itself with its verdict: mean cross-entropy over every next token."""
    indices = [4, 0, 1, 3, 5, 6]
    batch = pack(siblings, np.array(indices), len(indices))
    model = tiny.get_base_model()
    with torch.no_grad():
        packed = verdict.verdict_loss(
            verdict.hidden_states(model, batch),
            verdict.output_head(model),
            batch,
            verdict_ids,
            prompt_weight=1,
        )
        for loss, index, label in zip(packed, indices, batch.labels_B, strict=True):
            alone = pack(siblings, np.array([index]), 1)
            logits = model.lm_head(verdict.hidden_states(model, alone))
            target = torch.cat([alone.ids_T[1:], torch.tensor([verdict_ids[label]])])
            torch.testing.assert_close(loss, F.cross_entropy(logits, target), atol=1e-5, rtol=1e-5)


def test_unlabelled_rows_have_no_loss(
    tiny: torch.nn.Module, encoded: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    batch = PackedRows(encoded)[MicroBatch((2,), step_rows=4, is_dummy=True)]
    hidden = verdict.hidden_states(tiny.get_base_model(), batch)
    assert verdict.verdict_loss(
        hidden, verdict.output_head(tiny.get_base_model()), batch, verdict_ids
    ).tolist() == [0.0]


def test_two_by_four_equals_eight_by_one(
    tiny: torch.nn.Module, encoded: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    """A step's gradient does not depend on its micro-batches; the last step has fewer rows."""
    model, data = tiny.get_base_model(), PackedRows(encoded)
    order = np.random.default_rng(0).permutation(13)
    gradients = {}
    for batch_size, accumulate in ((2, 4), (8, 1)):
        micro_batches = training_micro_batches(13, batch_size, accumulate, order)
        for step, rows in enumerate((8, 5)):
            tiny.zero_grad()
            for micro_batch in (
                p
                for p in micro_batches
                if set(p.indices) <= set(order[8 * step : 8 * step + 8].tolist())
            ):
                assert micro_batch.step_rows == rows
                batch = data[micro_batch]
                loss = verdict.verdict_loss(
                    verdict.hidden_states(model, batch),
                    verdict.output_head(model),
                    batch,
                    verdict_ids,
                )
                (loss.sum() / batch.step_rows).backward()
            gradients[batch_size, step] = [
                p.grad.clone() for p in adapters.trained_parameters(tiny).values()
            ]
    for step in range(2):
        torch.testing.assert_close(gradients[2, step], gradients[8, step], atol=1e-6, rtol=1e-4)
