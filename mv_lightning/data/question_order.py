"""An order of training rows whose micro-batches keep the rows of a question together.

For losses over pairs of a right and a wrong solution of one question (such as a Bradley-Terry
term): a pair counts only where both are in one micro-batch, and there their question is computed
once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mv_lightning.data.batching import spread_classes


def question_order(
    question_ids_N: np.ndarray,
    labels_N: np.ndarray,
    batch_size: int,
    stratify: bool,
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
        stratify: Keep the class proportions of a micro-batch near those of the shard: a random
            question is joined by those that complement it, a hard one by an easy one.
        seed: Seed of the run.
        phase: The phase, from 1.
        epoch: The epoch, from 0.

    Returns:
        int64 [N], a permutation of the rows.
    """
    rng = np.random.default_rng([seed, phase, epoch])
    parts = _question_parts(question_ids_N, labels_N, batch_size, rng)
    shuffled = [parts[index] for index in rng.permutation(len(parts))]
    # Without right rows to count, all parts of a size are alike, and are taken as shuffled.
    counted_N = labels_N if stratify else np.zeros_like(labels_N)
    rows_N = np.array(_fill(shuffled, counted_N, batch_size, rng), dtype=np.int64)
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
            group = spread_classes(group, labels_N[group])
        parts += [part.tolist() for part in np.array_split(group, n_parts)]
    return parts


def _fill(
    parts: Sequence[list[int]], is_right_N: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[int]:
    """Lay parts end to end so that each `batch_size` rows hold whole ones where possible.

    The largest size that fits the rest of a batch is next; where none does, a part of the smallest
    is cut. Among parts of one size, the first of a batch is random; the others bring the batch's
    share of right rows as near as possible to that of all rows.
    """
    waiting: defaultdict[int, defaultdict[int, list[list[int]]]]
    waiting = defaultdict(lambda: defaultdict(list))  # by size, then by the number of right rows
    for part in parts:
        waiting[len(part)][int(is_right_N[part].sum())].append(part)
    share = is_right_N.mean()
    rows: list[int] = []
    while len(rows) < len(is_right_N):
        filled = len(rows) % batch_size
        free = batch_size - filled
        fitting = [size for size in waiting if size <= free]
        size = max(fitting) if fitting else min(waiting)
        by_right = waiting[size]
        if filled:
            missing = share * (filled + size) - is_right_N[rows[-filled:]].sum()
            right = min(by_right, key=lambda count: (abs(count - missing), count))
        else:
            right = _random_count(by_right, rng)
        part = by_right[right].pop()
        if not by_right[right]:
            del by_right[right]
        if not by_right:
            del waiting[size]
        rows += part[:free]
        rest = part[free:]
        if rest:
            waiting[len(rest)][int(is_right_N[rest].sum())].append(rest)
    return rows


def _random_count(by_right: Mapping[int, list[list[int]]], rng: np.random.Generator) -> int:
    """The number of right rows of a random part."""
    counts = list(by_right)
    if len(counts) == 1:
        return counts[0]
    parts_C = np.array([len(by_right[count]) for count in counts])
    return counts[rng.choice(len(counts), p=parts_C / parts_C.sum())]
