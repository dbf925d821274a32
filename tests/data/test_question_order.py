"""Every row once, the same for the same arguments, questions together as far as batches allow."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.batching import training_micro_batches
from mv_lightning.data.question_order import question_order

QUESTIONS = st.lists(st.integers(1, 20), min_size=1, max_size=40)
"""Rows of each question."""


def rows_of(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    question_ids_N = rng.permutation(np.repeat(rng.permutation(len(sizes)), sizes))
    return question_ids_N, rng.random(len(question_ids_N)) < 0.5


@settings(max_examples=150, deadline=None)
@given(sizes=QUESTIONS, batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_row_once_and_few_questions_cut(sizes: list[int], batch_size: int, seed: int) -> None:
    question_ids_N, labels_N = rows_of(sizes, seed)
    order_N = question_order(question_ids_N, labels_N, batch_size, seed % 2 == 0, seed, 1, 0)
    assert order_N.dtype == np.int64
    assert sorted(order_N.tolist()) == list(range(len(question_ids_N)))
    batch_N = np.arange(len(order_N)) // batch_size
    n_batches = len(np.unique(batch_N))
    n_cut = 0
    for question, size in enumerate(np.bincount(question_ids_N).tolist()):
        n_parts = len(np.unique(batch_N[question_ids_N[order_N] == question]))
        n_cut += n_parts - -(-size // batch_size)
    assert n_cut <= n_batches
    if all(batch_size % size == 0 for size in sizes) and len(set(sizes)) == 1:
        assert n_cut == 0


def test_single_rows_fill_what_questions_leave() -> None:
    question_ids_N, labels_N = rows_of([3] * 20 + [1] * 20)
    order_N = question_order(question_ids_N, labels_N, 4, False, seed=1, phase=1, epoch=0)
    for batch in question_ids_N[order_N].reshape(20, 4):
        assert sorted(np.bincount(np.unique(batch, return_inverse=True)[1]).tolist()) == [1, 3]


def test_parts_of_a_large_question_have_both_classes() -> None:
    question_ids_N = np.zeros(24, dtype=np.int64)
    labels_N = np.arange(24) < 6
    order_N = question_order(question_ids_N, labels_N, 4, False, seed=0, phase=1, epoch=0)
    assert labels_N[order_N].reshape(6, 4).sum(axis=1).tolist() == [1] * 6


def test_the_order_is_a_pure_function() -> None:
    question_ids_N, labels_N = rows_of([4] * 30)
    first = question_order(question_ids_N, labels_N, 4, True, 3, 1, 0)
    assert np.array_equal(first, question_order(question_ids_N, labels_N, 4, True, 3, 1, 0))
    for other in ((4, 1, 0), (3, 2, 0), (3, 1, 1)):
        assert not np.array_equal(first, question_order(question_ids_N, labels_N, 4, True, *other))
    # Numbers of questions are only names.
    renamed = question_order(question_ids_N * 7 + 5, labels_N, 4, True, 3, 1, 0)
    assert np.array_equal(first, renamed)


@settings(max_examples=50, deadline=None)
@given(batch_size=st.integers(1, 4), accumulate=st.integers(1, 3), world=st.integers(1, 2))
def test_micro_batches_are_those_of_the_order(batch_size: int, accumulate: int, world: int) -> None:
    """In every whole step, for every process."""
    question_ids_N, labels_N = rows_of([batch_size] * accumulate * world * 5)
    order_N = question_order(question_ids_N, labels_N, batch_size, True, 0, 1, 0)
    n_rows = len(order_N)
    for rank in range(world):
        for micro_batch in training_micro_batches(
            np.ones(n_rows), batch_size, accumulate, order_N, rank, world, keep_micro_batches=True
        ):
            assert len(micro_batch.indices) == batch_size
            assert len(np.unique(question_ids_N[list(micro_batch.indices)])) == 1


def test_stratified_micro_batches_join_hard_questions_with_easy_ones() -> None:
    """Questions of four rows, of which 0 to 4 are right as in the GSM8K solutions."""
    right_Q = np.repeat(np.arange(5), [197, 142, 104, 95, 84])
    question_ids_N = np.repeat(np.arange(len(right_Q)), 4)
    labels_N = np.tile(np.arange(4), len(right_Q)) < np.repeat(right_Q, 4)

    def deviation(stratify: bool) -> float:
        order_N = question_order(question_ids_N, labels_N, 8, stratify, 1, 1, 0)
        right_B = labels_N[order_N].reshape(-1, 8).sum(axis=1)
        return float(np.std(right_B - 8 * labels_N.mean()))

    assert deviation(True) < 0.6 * deviation(False)
