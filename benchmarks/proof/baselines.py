"""Baselines that know nothing of mathematics: the majority class and the words of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proof.scoring import score_rows
from mv_lightning.artifacts.solutions import Solutions
from mv_lightning.data.sources import Source, load_source
from mv_lightning.metrics.baselines import bag_of_words_log_odds
from mv_lightning.schema import DEFAULT_SEED, TEXT_COLUMNS

BASELINES = {"majority": "majority class", "bag-of-words": "bag of words"}
"""Title by name."""


def score_baseline(name: str, training_rows: Path, scored_rows: Path) -> dict[str, Any]:
    """Fit a baseline and score it.

    Args:
        name: A key of `BASELINES`.
        training_rows: Labelled rows.
        scored_rows: Labelled rows of other questions.

    Returns:
        See `scoring.score_rows`.
    """
    training, scored = load_source(str(training_rows)), load_source(str(scored_rows))
    assert training.labels_N is not None and scored.labels_N is not None
    log_odds_M = np.full(len(scored.labels_N), _prior_log_odds(training.labels_N))
    if name == "bag-of-words":
        log_odds_M = bag_of_words_log_odds(
            _texts(training), training.labels_N, _texts(scored), DEFAULT_SEED
        )
    return score_rows(Solutions.of(scored, np.arange(len(log_odds_M)), log_odds_M))


def _prior_log_odds(labels_N: np.ndarray) -> float:
    share = float(labels_N.mean())
    return float(np.log(share / (1 - share)))


def _texts(source: Source) -> list[str]:
    columns = [source.table[name][:] for name in TEXT_COLUMNS]
    return ["\n".join(texts) for texts in zip(*columns, strict=True)]
