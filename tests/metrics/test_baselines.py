"""Each baseline knows what it may know, and nothing else."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mv_lightning.metrics.baselines import bag_of_words, length_only, lookup, majority


def test_majority() -> None:
    assert majority(np.array([True, True, False]), 2).tolist() == [True, True]
    assert majority(np.array([True, False]), 2).tolist() == [False, False]


def test_length_only_finds_a_length_and_no_more() -> None:
    lengths_N = np.random.default_rng(0).integers(1, 500, 5_000)
    said_M = length_only(lengths_N, lengths_N > 250, np.array([1, 200, 300, 10_000]))
    assert said_M.tolist() == [False, False, True, True]
    coin_N = np.random.default_rng(1).random(5_000) < 0.4
    assert not length_only(lengths_N, coin_N, lengths_N).any()
    assert length_only(np.array([7]), np.array([True]), np.array([3, 7, 9])).all()


def test_bag_of_words_sees_words_but_not_their_order() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels_N = rng.random(2_000) < 0.5
    word = [
        f"{a} {'good' if label else 'bad'}"
        for a, label in zip(rng.integers(0, 9, 2_000), labels_N, strict=True)
    ]
    order = ["a b" if label else "b a" for label in labels_N]
    for texts, least, most in ((word, 0.99, 1.0), (order, 0.4, 0.6)):
        said_M = bag_of_words(texts[:1_000], labels_N[:1_000], texts[1_000:], seed=0)
        assert said_M is not None and least <= (said_M == labels_N[1_000:]).mean() <= most
    one = bag_of_words(word[:3], np.ones(3, dtype=bool), word[3:5], seed=0)
    assert one is not None and one.tolist() == [True, True]


def test_bag_of_words_is_left_out_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert bag_of_words(["a"], np.array([True]), ["b"], seed=0) is None


def test_lookup_says_true_to_the_usual_true_answer_of_the_question() -> None:
    verdicts_M, covered_M = lookup(
        train_groups_N=np.array([0, 0, 0, 1, 1]),
        train_answers=["4", " 4", "5", "6", "7"],
        train_labels_N=np.array([True, True, True, False, False]),
        groups_M=np.array([0, 0, 1, 2]),
        answers=["4 ", "5", "6", "4"],
    )
    assert covered_M.tolist() == [True, True, False, False]
    assert verdicts_M.tolist() == [
        True,
        False,
        True,
        True,
    ]  # unknown questions: most training rows are True
