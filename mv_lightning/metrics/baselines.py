"""Predictors that ignore the mathematics: a verifier must beat all of them.

Each takes training rows and the rows to score (M of them), and returns verdicts, bool [M].
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

LENGTH_PARTS = 20


def majority(train_labels_N: np.ndarray, rows: int) -> np.ndarray:
    """Predict the class of most training rows; False where both classes are equally frequent.

    Args:
        train_labels_N: bool [N].
        rows: M.
    """
    return np.full(rows, 2 * np.count_nonzero(train_labels_N) > len(train_labels_N))


def length_only(
    train_lengths_N: np.ndarray, train_labels_N: np.ndarray, lengths_M: np.ndarray
) -> np.ndarray:
    """Predict the class of most training rows of similar length: those in the same twentieth.

    Args:
        train_lengths_N: int [N], at least one.
        train_labels_N: bool [N].
        lengths_M: int [M].
    """
    # Upper bounds are lengths of training rows, and the last part is open: none is without a row.
    parts = np.arange(1, LENGTH_PARTS + 1) / LENGTH_PARTS
    bounds = np.unique(np.quantile(train_lengths_N, parts, method="inverted_cdf"))[:-1]
    train_parts_N = np.searchsorted(bounds, train_lengths_N)
    rows = np.bincount(train_parts_N, minlength=len(bounds) + 1)
    true = np.bincount(train_parts_N, train_labels_N, len(bounds) + 1)
    return (2 * true > rows)[np.searchsorted(bounds, lengths_M)]


def bag_of_words(
    train_texts: Sequence[str], train_labels_N: np.ndarray, texts: Sequence[str], seed: int
) -> np.ndarray | None:
    """Predict with a linear classifier on the words that occur, in whatever order.

    Args:
        train_texts: N texts.
        train_labels_N: bool [N]; if they are of one class, all rows get it.
        texts: M texts.
        seed: Seed of the classifier.

    Returns:
        bool [M]; None where scikit-learn is not installed.
    """
    try:
        import sklearn.linear_model  # noqa: F401
    except ImportError:
        return None
    if len(np.unique(train_labels_N)) < 2:
        return majority(train_labels_N, len(texts))
    return bag_of_words_log_odds(train_texts, train_labels_N, texts, seed) > 0


def bag_of_words_log_odds(
    train_texts: Sequence[str], train_labels_N: np.ndarray, texts: Sequence[str], seed: int
) -> np.ndarray:
    """Return the log-odds of the classifier of `bag_of_words`.

    Args:
        train_texts: N texts.
        train_labels_N: bool [N], both classes.
        texts: M texts.
        seed: Seed of the classifier.

    Returns:
        float64 [M].

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier

    # Hashing stores no vocabulary. Single characters matter: they are the digits and operators.
    vectorizer = HashingVectorizer(
        n_features=2**18, token_pattern=r"\w+|[^\w\s]", alternate_sign=False
    )
    classifier = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed)
    classifier.fit(vectorizer.transform(train_texts), train_labels_N)
    log_odds_M: np.ndarray = classifier.decision_function(vectorizer.transform(texts))
    return log_odds_M


def lookup(
    train_groups_N: np.ndarray,
    train_answers: Sequence[str],
    train_labels_N: np.ndarray,
    groups_M: np.ndarray,
    answers: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Predict True for the answer that is most often labelled True for the same question.

    It measures the leakage from training rows: all it can know is the questions among them.

    Args:
        train_groups_N: int [N], the question of each training row.
        train_answers: N proposed answers.
        train_labels_N: bool [N].
        groups_M: int [M].
        answers: M proposed answers.

    Returns:
        Verdicts (those of `majority` where the question has no answer labelled True), and
        bool [M]: where it has one.
    """
    true_answers: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row in np.flatnonzero(train_labels_N).tolist():
        true_answers[int(train_groups_N[row])][train_answers[row].strip()] += 1
    # Of equally frequent answers, most_common gives the first in the order of the training rows.
    usual = {group: counts.most_common(1)[0][0] for group, counts in true_answers.items()}
    known = [usual.get(group) for group in groups_M.tolist()]
    covered_M = np.array([answer is not None for answer in known], dtype=bool)
    agrees_M = np.array([a == b.strip() for a, b in zip(known, answers, strict=True)], dtype=bool)
    return np.where(covered_M, agrees_M, majority(train_labels_N, len(known))), covered_M
