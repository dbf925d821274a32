"""What can be reached without looking at the mathematics: a verifier must beat all of these.

Each takes training rows and the rows to score (M of them), and returns verdicts, bool [M].
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

LENGTH_PARTS = 20


def majority(train_labels_N: np.ndarray, rows: int) -> np.ndarray:
    """Judge all rows as most training rows are; False where both classes are as many.

    Args:
        train_labels_N: bool [N].
        rows: M.
    """
    return np.full(rows, 2 * np.count_nonzero(train_labels_N) > len(train_labels_N))


def length_only(
    train_lengths_N: np.ndarray, train_labels_N: np.ndarray, lengths_M: np.ndarray
) -> np.ndarray:
    """Judge a row as most training rows of about its length are: the same twentieth of them.

    Args:
        train_lengths_N: int [N], at least one.
        train_labels_N: bool [N].
        lengths_M: int [M].
    """
    # Upper bounds that are lengths of training rows, the last one left open: no part is without a training row.
    parts = np.arange(1, LENGTH_PARTS + 1) / LENGTH_PARTS
    bounds = np.unique(np.quantile(train_lengths_N, parts, method="inverted_cdf"))[:-1]
    train_parts_N = np.searchsorted(bounds, train_lengths_N)
    rows, true = (
        np.bincount(train_parts_N, weights, len(bounds) + 1) for weights in (None, train_labels_N)
    )
    return (2 * true > rows)[np.searchsorted(bounds, lengths_M)]


def bag_of_words(
    train_texts: Sequence[str], train_labels_N: np.ndarray, texts: Sequence[str], seed: int
) -> np.ndarray | None:
    """Judge rows by a linear classifier on which words occur, whatever their order.

    Args:
        train_texts: N texts.
        train_labels_N: bool [N]; of one class only, it is what all rows are said to be.
        texts: M texts.
        seed: Seed of the classifier.

    Returns:
        bool [M]; None where scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import SGDClassifier
    except ImportError:
        return None
    if len(np.unique(train_labels_N)) < 2:
        return majority(train_labels_N, len(texts))
    # Hashing holds no vocabulary. Single characters count: they are the digits and the operators.
    vectorizer = HashingVectorizer(
        n_features=2**18, token_pattern=r"\w+|[^\w\s]", alternate_sign=False
    )
    classifier = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed)
    classifier.fit(vectorizer.transform(train_texts), train_labels_N)
    return np.asarray(classifier.predict(vectorizer.transform(texts)), dtype=bool)


def lookup(
    train_groups_N: np.ndarray,
    train_answers: Sequence[str],
    train_labels_N: np.ndarray,
    groups_M: np.ndarray,
    answers: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Judge an answer by whether it is the one most often labelled True for the same question.

    It measures the leak between training rows and others: nothing is learned but known questions.

    Args:
        train_groups_N: int [N], see `fingerprint.question_ids`.
        train_answers: N proposed answers.
        train_labels_N: bool [N].
        groups_M: int [M].
        answers: M proposed answers.

    Returns:
        Verdicts (as `majority` where the question has no answer labelled True), and bool [M]: where it has one.
    """
    true_answers: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row in np.flatnonzero(train_labels_N).tolist():
        true_answers[int(train_groups_N[row])][train_answers[row].strip()] += 1
    # The first of equals: what most_common gives is the order of the training rows.
    usual = {group: counts.most_common(1)[0][0] for group, counts in true_answers.items()}
    known = [usual.get(group) for group in groups_M.tolist()]
    covered_M = np.array([answer is not None for answer in known], dtype=bool)
    agrees_M = np.array([a == b.strip() for a, b in zip(known, answers, strict=True)], dtype=bool)
    return np.where(covered_M, agrees_M, majority(train_labels_N, len(known))), covered_M
