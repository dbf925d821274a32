"""An order of training rows whose micro-batches keep the rows of a question together.

For losses over pairs of a right and a wrong solution of one question (such as a Bradley-Terry
term): a pair counts only where both are in one micro-batch, and there their question is computed
once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def question_order(
    question_ids_N: np.ndarray,
    labels_N: np.ndarray,
    batch_size: int,
    seed: int,
    phase: int,
    epoch: int,
) -> np.ndarray:
    """Return the order of a shard's rows in an epoch, a function of the arguments.

    Every `batch_size` rows of it are a micro-batch of `training_micro_batches` (which divides the
    rows of an incomplete last step evenly instead). Questions with more rows than that are divided
    into parts that have both classes as far as there are any. Smaller ones stay together unless
    only a part of one fills a micro-batch: at most one question per micro-batch is cut so. Which
    questions share a micro-batch, the order of the micro-batches and of their rows are random; an
    incomplete one is the last.

    Args:
        question_ids_N: int [N], equal for rows of the same question.
        labels_N: bool [N].
        batch_size: Rows of a micro-batch.
        seed: Seed of the run.
        phase: The phase, from 1.
        epoch: The epoch, from 0.

    Returns:
        int64 [N], a permutation of the rows.
    """
    rng = np.random.default_rng([seed, phase, epoch])
    parts = _question_parts(question_ids_N, labels_N, batch_size, rng)
    shuffled = [parts[index] for index in rng.permutation(len(parts))]
    rows_N = np.array(_fill(shuffled, batch_size), dtype=np.int64)
    n_full = len(rows_N) // batch_size
    batches = rows_N[: n_full * batch_size].reshape(n_full, batch_size)
    last = rows_N[n_full * batch_size :]
    return np.concatenate([rng.permutation(batches).reshape(-1), last])


def _question_parts(
    question_ids_N: np.ndarray, labels_N: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[list[int]]:
    """The rows of each question in parts of `batch_size` at most."""
    shuffled_N = rng.permutation(len(question_ids_N))
    sorted_N = shuffled_N[np.argsort(question_ids_N[shuffled_N], kind="stable")]
    starts = np.flatnonzero(np.diff(question_ids_N[sorted_N])) + 1
    parts = []
    for group in np.split(sorted_N, starts):
        n_parts = max(1, -(-len(group) // batch_size))
        if n_parts > 1:
            group = _spread_classes(group, labels_N[group])
        parts += [part.tolist() for part in np.array_split(group, n_parts)]
    return parts


def _spread_classes(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows with both classes spread evenly over them."""
    place = np.empty(len(rows))
    for label in (True, False):
        count = int(np.count_nonzero(labels == label))
        place[labels == label] = (np.arange(count) + 0.5) / max(1, count)
    return rows[np.argsort(place, kind="stable")]


def _fill(parts: Sequence[list[int]], batch_size: int) -> list[int]:
    """Lay parts end to end so that each `batch_size` rows hold whole ones where possible.

    The largest part that fits the rest of a batch is next; where none does, the smallest is cut.
    """
    by_size: list[list[list[int]]] = [[] for _ in range(batch_size + 1)]
    for part in parts:
        by_size[len(part)].append(part)
    rows: list[int] = []
    n_rows = sum(map(len, parts))
    while len(rows) < n_rows:
        free = batch_size - len(rows) % batch_size
        sizes = [size for size in range(1, batch_size + 1) if by_size[size]]
        fitting = [size for size in sizes if size <= free]
        part = by_size[max(fitting) if fitting else min(sizes)].pop()
        rows += part[:free]
        by_size[len(part[free:])].append(part[free:])
    return rows
