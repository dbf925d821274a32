"""Requests share forward passes; each gets its own scores, and one that fails harms no other."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch

from mv_lightning import Verifier
from mv_lightning.data.batching import evaluation_micro_batches
from mv_lightning.serving.batcher import Batcher, Scores
from mv_lightning.serving.monitoring import Monitoring
from mv_lightning.serving.protocol import RequestError, RowError
from mv_lightning.serving.settings import Limits
from tests.serving.conftest import EVAL_TOKENS, HeldVerifier

Rows = list[dict[str, str]]


def batcher_of(verifier: Any, **limits: int) -> Batcher:
    return Batcher(verifier, Limits(**limits), Monitoring("tiny@0123"))


def score(batcher: Batcher, requests: list[Rows]) -> list[Future[Scores]]:
    """Submit all requests, then compute them."""
    futures = [batcher.submit(rows) for rows in requests]
    batcher.start()
    batcher.close()
    return futures


def probabilities(future: Future[Scores]) -> list[float]:
    return [row.probability for row in future.result(0).rows]


def test_a_request_alone_is_a_prediction(verifier: Verifier, rows: Rows) -> None:
    [future] = score(batcher_of(verifier), [rows])
    assert len(evaluation_micro_batches(verifier.encode(rows), EVAL_TOKENS)) > 2
    results = future.result(0).rows
    assert [row.probability for row in results] == verifier.predict_proba(rows).tolist()
    log_odds_N = verifier.log_odds(rows)
    assert [row.log_odds for row in results] == log_odds_N.tolist()
    assert [row.verdict for row in results] == (log_odds_N > 0.1).tolist()


def test_requests_that_wait_share_forward_passes(
    verifier: Verifier, held: HeldVerifier, rows: Rows
) -> None:
    held.release.set()
    requests = [rows[start : start + 2] for start in range(0, len(rows), 2)]
    futures = score(batcher_of(held), requests)
    assert 1 < len(held.passes) < len(requests) / 2
    instruction = len(held.passes[0].prefix_ids)
    done = 0
    for encoded in held.passes:
        assert len(evaluation_micro_batches(encoded, EVAL_TOKENS)) == 1
        group = slice(done, done + len(encoded) // 2)
        together = [row for request in requests[group] for row in request]
        got = [value for future in futures[group] for value in probabilities(future)]
        # To the last bit: the composition is that of a prediction of these rows.
        assert got == verifier.predict_proba(together).tolist()
        done = group.stop
        tokens = [
            future.result(0).tokens - instruction for future in futures[group.start : done + 1]
        ]
        assert done == len(requests) or instruction + sum(tokens) > EVAL_TOKENS
    assert done == len(requests)
    everything = [value for future in futures for value in probabilities(future)]
    np.testing.assert_allclose(everything, verifier.predict_proba(rows), atol=1e-5)
    assert len(set(everything)) > 20


def test_the_question_of_several_solutions_is_computed_once(verifier: Verifier, rows: Rows) -> None:
    siblings = [{**rows[0], "solution": f"So it is {number}."} for number in range(8)]
    [future] = score(batcher_of(verifier), [siblings])
    encoded = verifier.encode(siblings)
    whole = len(encoded.prefix_ids) + len(encoded.ids_T)
    assert future.result(0).tokens == whole - 7 * encoded.question_prefix_N[0]
    assert encoded.question_prefix_N[0] > 10


def test_only_the_bad_rows_fail(verifier: Verifier, rows: Rows) -> None:
    too_long = {**rows[0], "question": "many words " * 3000}
    blank = {**rows[0], "question": "\u2003"}
    requests = [[rows[1], too_long, rows[2], blank], [too_long], [rows[3]]]
    mixed, bad, good = score(batcher_of(verifier), requests)
    results = mixed.result(0).rows
    assert [isinstance(row, RowError) for row in results] == [False, True, False, True]
    assert "at most 2048 tokens" in results[1].message and "empty" in results[3].message
    [only] = bad.result(0).rows
    assert isinstance(only, RowError)
    expected = verifier.predict_proba([rows[1], rows[2], rows[3]]).tolist()
    assert [results[0].probability, results[2].probability, *probabilities(good)] == expected


def test_only_the_row_whose_log_odds_is_not_finite_fails(verifier: Verifier, rows: Rows) -> None:
    bad = {**rows[0], "solution": "\u2603"}
    own = set(verifier.encode([bad]).ids_T) - set(verifier.encode(rows).ids_T)
    weight = verifier.model.get_input_embeddings().weight
    kept = weight.detach().clone()
    expected = verifier.predict_proba(rows[:3])
    try:
        with torch.no_grad():
            weight[list(own)] = torch.nan
        first, second = score(batcher_of(verifier), [[rows[0], bad], rows[1:3]])
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    good, failed = first.result(0).rows
    assert isinstance(failed, RowError) and "not finite" in failed.message
    got = [good.probability, *probabilities(second)]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_client_that_leaves_takes_its_rows_along(held: HeldVerifier, rows: Rows) -> None:
    batcher = batcher_of(held, max_waiting=3)
    batcher.start()
    running = batcher.submit(rows[:1])
    assert held.started.wait(60)
    leaving, staying = batcher.submit(rows[1:3]), batcher.submit(rows[3:4])
    with pytest.raises(RequestError, match="3 rows are waiting already") as refused:
        batcher.submit(rows[4:5])
    assert (refused.value.status, refused.value.error_type) == (429, "queue_full")
    assert leaving.cancel() and not running.cancel()
    last = batcher.submit(rows[4:6])
    held.release.set()
    batcher.close()
    assert [len(encoded) for encoded in held.passes] == [1, 3]
    assert [len(future.result(0).rows) for future in (running, staying, last)] == [1, 1, 2]


def test_a_request_larger_than_the_queue_is_computed_when_nothing_waits(
    verifier: Verifier, rows: Rows
) -> None:
    [future] = score(batcher_of(verifier, max_waiting=2), [rows[:3]])
    assert len(probabilities(future)) == 3


def test_too_many_tokens(verifier: Verifier, rows: Rows) -> None:
    tokens = len(verifier.encode(rows[:1]).prefix_ids) + len(verifier.encode(rows[:1]).ids_T)
    fits, exceeds = score(batcher_of(verifier, max_tokens=tokens), [rows[:1], rows[:2]])
    assert fits.result(0).tokens == tokens
    with pytest.raises(RequestError, match=f"at most {tokens} tokens, got") as refused:
        exceeds.result(0)
    assert (refused.value.status, refused.value.error_type) == (413, "tokens_exceeded")


def test_the_server_outlives_a_failure(
    held: HeldVerifier, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.release.set()
    batcher = batcher_of(held)
    batcher.start()
    with monkeypatch.context() as patch:
        patch.setattr(held, "raw_log_odds", lambda encoded: torch.zeros(1) @ torch.zeros(2))
        with pytest.raises(RuntimeError):
            batcher.submit(rows[:1]).result(60)
    assert len(batcher.submit(rows[:1]).result(60).rows) == 1
    batcher.close()
    assert not batcher.is_running
    with pytest.raises(RequestError, match="the server stops"):
        batcher.submit(rows[:1])
