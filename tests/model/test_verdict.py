"""The verdict's loss and log-odds against the plain causal language model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.data.batching import (
    MicroBatch,
    PackedRows,
    pack,
    pack_contaminated,
    pad,
    training_micro_batches,
)
from mv_lightning.model import adapters, verdict
from mv_lightning.schema import UNLABELLED, Batch, EncodedRows, Packing


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


def test_prompt_weight_one_in_the_ablations_of_packing(
    tiny: torch.nn.Module, siblings: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    """Padding does not count; in a contaminated pack the whole text is one for the model."""
    indices, ends = np.array([4, 0, 5]), tuple((verdict, 1) for verdict in verdict_ids)
    model = tiny.get_base_model()
    batches = {
        "clean": pack(siblings, indices, 3),
        "padded": pad(siblings, indices, 3),
        "contaminated": pack_contaminated(siblings, indices, 3, ends),
    }
    losses = {}
    with torch.no_grad():
        for name, batch in batches.items():
            hidden, head = verdict.hidden_states(model, batch), verdict.output_head(model)
            losses[name] = verdict.verdict_loss(hidden, head, batch, verdict_ids, prompt_weight=1)
        batch = batches["contaminated"]
        logits = model.lm_head(verdict.hidden_states(model, batch))
    torch.testing.assert_close(losses["padded"], losses["clean"], atol=1e-5, rtol=1e-5)
    text = F.cross_entropy(logits[:-1], batch.ids_T[1:], reduction="none")
    starts = [0, *np.cumsum(batch.packing.lengths).tolist()]
    for row, span in enumerate(batch.packing.row_spans or ()):
        last = int(batch.verdict_B[row])
        target = torch.tensor(verdict_ids[batch.labels_B[row]])
        tokens = [*text[max(0, starts[span] - 1) : last], F.cross_entropy(logits[last], target)]
        expected = torch.stack(tokens).mean()
        torch.testing.assert_close(losses["contaminated"][row], expected, atol=1e-5, rtol=1e-5)


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
        micro_batches = training_micro_batches(np.ones(13), batch_size, accumulate, order)
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


VERDICT_IDS = (3, 8)


def random_head(
    divisor: float = 1.0, softcap: float | None = None
) -> tuple[verdict.OutputHead, torch.Tensor]:
    """A head over 11 tokens, and 9 hidden states whose logits are far from 0."""
    rng = torch.Generator().manual_seed(5)
    linear = torch.nn.Linear(6, 11, bias=False)
    linear.weight.data.copy_(torch.randn(11, 6, generator=rng))
    return verdict.OutputHead(linear, divisor, softcap), torch.randn(9, 6, generator=rng)


@pytest.mark.parametrize("divisor", [1.0, 4.0])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_head_divides_and_caps_its_logits(
    divisor: float, softcap: float | None, autocast: bool
) -> None:
    head, hidden_PD = random_head(divisor, softcap)
    expected_PV = hidden_PD @ head.linear.weight.T / divisor
    if softcap is not None:
        expected_PV = softcap * (expected_PV / softcap).tanh()
    torch.testing.assert_close(head.logits(hidden_PD), expected_PV)
    false, true = VERDICT_IDS
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        odds_P = head.log_odds(hidden_PD, VERDICT_IDS)
        assert head.logits(hidden_PD).dtype == odds_P.dtype == torch.float32
    torch.testing.assert_close(odds_P, expected_PV[:, true] - expected_PV[:, false])


@pytest.mark.parametrize(
    ("config", "divisor", "softcap"),
    [
        ({"model_type": "llama", "logits_scaling": 8.0}, 1.0, None),
        ({"model_type": "granite", "logits_scaling": 8.0}, 8.0, None),
        ({"model_type": "gemma2", "final_logit_softcapping": 30.0}, 1.0, 30.0),
        ({"model_type": "gemma3_text", "final_logit_softcapping": None}, 1.0, None),
    ],
)
def test_the_head_is_that_of_the_family(
    config: dict[str, object], divisor: float, softcap: float | None
) -> None:
    model = SimpleNamespace(config=SimpleNamespace(**config), lm_head=torch.nn.Linear(2, 3))
    assert verdict.output_head(model) == verdict.OutputHead(model.lm_head, divisor, softcap)


def small_batch() -> Batch:
    """An instruction of 2 tokens, a question of 3 with rows of 1 and 2, and a row by itself."""
    packing = Packing((2, 3, 1, 2, 1), (-1, 0, 1, 1, 0))
    ids_T = torch.tensor([1, 4, 2, 9, 10, 7, 6, 5, 0])
    positions_T = torch.tensor([0, 1, 2, 3, 4, 5, 5, 6, 2])
    labels_B, rows_B = torch.tensor([1, UNLABELLED, 0]), torch.arange(3)
    return Batch(ids_T, positions_T, packing, labels_B, rows_B, step_rows=3)


@pytest.mark.parametrize("chunk", [3, 1_024])
@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_rows_loss_is_the_weighted_mean_over_its_tokens(
    chunk: int, weight: float, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand over the path of each row; the same in chunks of logits, in values and gradients."""
    monkeypatch.setattr(verdict, "_CHUNK_TOKENS", chunk)
    head, hidden_TD = random_head(divisor=2.0)
    hidden_TD.requires_grad_()
    batch = small_batch()
    loss_B = verdict.verdict_loss(hidden_TD, head, batch, VERDICT_IDS, weight, smoothing)
    expected = []
    for path, label in (([0, 1, 2, 3, 4, 5], 1), ([0, 1, 8], 0)):
        logits = head.logits(hidden_TD[path])
        ids = torch.tensor([*batch.ids_T[path[1:]].tolist(), VERDICT_IDS[label]])
        target = F.one_hot(ids, logits.shape[1]).float()
        target[-1, list(VERDICT_IDS)] = smoothing / 2
        target[-1, VERDICT_IDS[label]] = 1 - smoothing / 2
        weights = torch.tensor([weight] * (len(path) - 1) + [1.0])
        losses = F.cross_entropy(logits, target, reduction="none")
        expected.append((losses * weights).sum() / weights.sum())
    torch.testing.assert_close(loss_B[[0, 2]], torch.stack(expected))
    assert loss_B[1] == 0 and loss_B.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss_B.sum(), hidden_TD)
    (by_hand,) = torch.autograd.grad(sum(expected), hidden_TD)
    torch.testing.assert_close(gradient, by_hand)


def test_a_row_beyond_the_position_embeddings_is_refused(
    tiny: torch.nn.Module, encoded: EncodedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pack(encoded, np.arange(2), 2)
    longest = max(batch.packing.ends)
    monkeypatch.setattr(verdict, "max_row_tokens", lambda config: longest)
    hidden_TD = verdict.hidden_states(tiny.get_base_model(), batch)
    assert hidden_TD.shape[0] == len(batch.ids_T)
    monkeypatch.setattr(verdict, "max_row_tokens", lambda config: longest - 1)
    message = rf"at most {longest - 1} tokens, got one of {longest}: .*data\.max_length"
    with pytest.raises(ValueError, match=message):
        verdict.hidden_states(tiny.get_base_model(), batch)


def test_label_smoothing_is_that_of_two_classes() -> None:
    """Where the vocabulary is the two verdicts, torch's own."""
    rng = torch.Generator().manual_seed(3)
    linear = torch.nn.Linear(6, 2, bias=False)
    linear.weight.data.copy_(torch.randn(2, 6, generator=rng))
    hidden_TD = torch.randn(9, 6, generator=rng)
    batch = small_batch()
    loss_B = verdict.verdict_loss(
        hidden_TD, verdict.OutputHead(linear), batch, (0, 1), label_smoothing=0.2
    )
    expected_B = F.cross_entropy(
        linear(hidden_TD[batch.verdict_B]),
        batch.labels_B,
        reduction="none",
        label_smoothing=0.2,
        ignore_index=UNLABELLED,
    )
    torch.testing.assert_close(loss_B, expected_B)


def test_pair_loss_by_hand() -> None:
    """Question 7: a right row at 1 against wrong ones at 0 and 3. Question 2 has one class, and
    question 5 one labelled row."""
    odds_B = torch.tensor([1.0, 9.0, 0.0, 3.0, -2.0, 4.0, 8.0])
    labels_B = torch.tensor([1, 1, 0, 0, 1, 0, UNLABELLED])
    questions_B = torch.tensor([7, 2, 7, 7, 2, 5, 5])
    up, down = math.log1p(math.exp(-1)), math.log1p(math.exp(2))
    expected = [(up + down) / 2, 0, up, down, 0, 0, 0]
    assert verdict.pair_loss(odds_B, labels_B, questions_B).tolist() == pytest.approx(expected)


ROWS = st.lists(
    st.tuples(st.floats(-30, 30), st.sampled_from([0, 1, UNLABELLED]), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)
"""Log-odds, label and question of each row."""


@given(rows=ROWS, seed=st.integers(0, 9))
def test_pair_loss_equals_a_loop_over_questions_and_pairs(
    rows: list[tuple[float, int, int]], seed: int
) -> None:
    """In its sum and gradient, in any order of the rows."""
    odds_B = torch.tensor([odds for odds, _, _ in rows], dtype=torch.float64, requires_grad=True)
    _, labels, questions = zip(*rows, strict=True)
    expected = odds_B.sum() * 0
    for question in set(questions):
        own = [i for i in range(len(rows)) if questions[i] == question and labels[i] >= 0]
        right = [i for i in own if labels[i] == 1]
        wrong = [i for i in own if labels[i] == 0]
        for i in right:
            for j in wrong:
                loss = torch.log1p(torch.exp(odds_B[j] - odds_B[i]))
                expected = expected + len(own) * loss / (len(right) * len(wrong))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))
    loss_B = verdict.pair_loss(
        odds_B[order], torch.tensor(labels)[order], torch.tensor(questions)[order]
    )
    (gradient,) = torch.autograd.grad(loss_B.sum(), odds_B)
    (by_hand,) = torch.autograd.grad(expected, odds_B)
    torch.testing.assert_close(loss_B.sum(), expected)
    torch.testing.assert_close(gradient, by_hand)
    in_order_B = verdict.pair_loss(odds_B, torch.tensor(labels), torch.tensor(questions))
    torch.testing.assert_close(loss_B, in_order_B[order])
