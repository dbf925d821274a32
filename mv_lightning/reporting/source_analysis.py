"""What is in a source before anything is trained on it, and how accurate trivial verifiers are on
it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mv_lightning.data.sources import Source
from mv_lightning.data.splits import SplitPlan, Splits, manifest, plan_splits
from mv_lightning.metrics import baselines
from mv_lightning.metrics.bootstrap import mean_with_interval
from mv_lightning.reporting.text_lengths import ROW_TOKENS, WORDS, Lengths
from mv_lightning.schema import TEXT_COLUMNS

LIMITS = (512, 1024, 2048)
"""Tokens of a row for which the share of longer rows is given."""
QUANTILES = {
    "min": 0.0,
    "5 %": 0.05,
    "25 %": 0.25,
    "median": 0.5,
    "75 %": 0.75,
    "95 %": 0.95,
    "99 %": 0.99,
    "max": 1.0,
}
BAG_SAMPLE = 20_000
"""Maximum number of training rows of the bag of words: one phase of the report."""
KNOWN_LOOKUP = "lookup where it knows"


def analyze_source(source: Source, lengths: Lengths, plan: SplitPlan) -> dict[str, Any]:
    """Return the content of `analysis.json`.

    Args:
        source: Labelled rows.
        lengths: See `measure_lengths`.
        plan: How the rows would be divided.

    Raises:
        ValueError: The source does not hold the rows that the plan asks for.
    """
    assert source.labels_N is not None
    splits = plan_splits(
        source.labels_N, source.question_ids_N, plan, source.source_N, source.shares
    )
    truncated = {}
    for prompt, lengths_N in lengths.get(ROW_TOKENS, {}).items():
        truncated[prompt] = {str(limit): float((lengths_N > limit).mean()) for limit in LIMITS}
    quantiles = {}
    for counted, texts in lengths.items():
        quantiles[counted] = {name: _quantiles(lengths_N) for name, lengths_N in texts.items()}
    return {
        "source": source.name,
        "counts": dict(source.counts),
        "true_share": float(source.labels_N.mean()),
        "lengths": quantiles,
        "truncated_share": truncated,
        "splits": manifest(
            source.fingerprint,
            plan,
            splits,
            source.labels_N,
            source.question_ids_N,
            source.source_N,
            source.source_names,
        ),
        "baselines": _baselines(source, lengths[WORDS]["solution"], splits, plan.seed),
    }


def _baselines(source: Source, words_N: np.ndarray, splits: Splits, seed: int) -> dict[str, Any]:
    """Accuracy of each baseline on all held-out rows, fitted on the training rows of all phases."""
    assert source.labels_N is not None
    # Rows are selected by `datasets`: Arrow's own `take` would first copy every chunk of the column
    # into one.
    answers = source.table.select_columns("answer")
    train_N = np.concatenate(splits.train)
    held_N = np.concatenate([splits.test, *splits.val])
    if not len(held_N):
        return {}
    train_labels_N, labels_N = source.labels_N[train_N], source.labels_N[held_N]
    bag_N = train_N[np.random.default_rng(seed).permutation(len(train_N))[:BAG_SAMPLE]]
    lookup_N, known_N = baselines.lookup(
        source.question_ids_N[train_N],
        answers[train_N]["answer"],
        train_labels_N,
        source.question_ids_N[held_N],
        answers[held_N]["answer"],
    )
    verdicts = {
        "majority": baselines.majority(train_labels_N, len(held_N)),
        "length only": baselines.length_only(words_N[train_N], train_labels_N, words_N[held_N]),
        "bag of words": baselines.bag_of_words(
            _texts(source, bag_N), source.labels_N[bag_N], _texts(source, held_N), seed
        ),
        "lookup": lookup_N,
    }
    question_ids_N = source.question_ids_N[held_N]
    accuracies: dict[str, Any] = {}
    for name, verdicts_N in verdicts.items():
        if verdicts_N is None:
            accuracies[name] = None
        else:
            accuracies[name] = _accuracy(verdicts_N == labels_N, question_ids_N)
    accuracies[KNOWN_LOOKUP] = _accuracy((lookup_N == labels_N)[known_N], question_ids_N[known_N])
    return accuracies


def _texts(source: Source, rows_N: np.ndarray) -> list[str]:
    table = source.table[rows_N]
    columns = [table[name] for name in TEXT_COLUMNS]
    return ["\n".join(row) for row in zip(*columns, strict=True)]


def _accuracy(right_N: np.ndarray, question_ids_N: np.ndarray) -> dict[str, Any]:
    if not len(right_N):
        return {"rows": 0, "accuracy": None, "interval": None}
    accuracy = mean_with_interval(right_N.astype(np.float64), question_ids_N)
    return {"rows": len(right_N), "accuracy": accuracy["value"], "interval": accuracy["interval"]}


def _quantiles(lengths_N: np.ndarray) -> dict[str, float]:
    values = np.quantile(lengths_N, list(QUANTILES.values()), method="inverted_cdf").tolist()
    return {"mean": float(lengths_N.mean()), **dict(zip(QUANTILES, values, strict=True))}
