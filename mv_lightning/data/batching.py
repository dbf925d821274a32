"""The composition of batches, their order, and how rows are packed into one sequence.

Every choice is a pure function of sizes, seed and epoch, so a resumed run finds its position by
arithmetic instead of replaying the epoch. Shape suffixes: see `mv_lightning/schema.py`.

Beside `pack` there are two ablations of it, `pack_contaminated` and `pad`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import chain, groupby, zip_longest
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from mv_lightning.schema import UNLABELLED, Batch, EncodedRows, Packing

EVAL_TOKENS = 8192
"""Default of the maximum tokens of a batch in a pass without gradients."""
PackingMode = Literal["clean", "contaminated", "none"]
"""How the rows of a batch are laid out: by `pack`, `pack_contaminated` or `pad`."""
PackRows = Callable[[EncodedRows, np.ndarray, int], Batch]
"""`pack`, or another function of its arguments."""


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one micro-batch, before they are looked up."""

    indices: tuple[int, ...]
    """Positions in the `EncodedRows`."""
    step_rows: int
    """Rows of the optimizer step that the micro-batch belongs to, over all processes."""
    is_dummy: bool = False
    """True for a batch that keeps a process without rows in step with the others; its labels are
    masked."""


class MicroBatches:
    """The micro-batches of one process in an epoch or a pass, in their order.

    Held as arrays, 4 bytes a row and 13 a micro-batch, and made when they are asked for: as objects
    those of a million rows take 40 bytes a row and more.
    """

    def __init__(self, micro_batches: Iterable[MicroBatch]) -> None:
        """Store them.

        Args:
            micro_batches: Each is needed only until the next.
        """
        self._indices, self._starts = array("i"), array("q", [0])
        self._step_rows, self._is_dummy = array("i"), array("b")
        for micro_batch in micro_batches:
            self._indices.extend(micro_batch.indices)
            self._starts.append(len(self._indices))
            self._step_rows.append(micro_batch.step_rows)
            self._is_dummy.append(micro_batch.is_dummy)

    def __len__(self) -> int:
        return len(self._step_rows)

    def __getitem__(self, number: int) -> MicroBatch:
        """Return a micro-batch by its number, from 0.

        Raises:
            IndexError: There are fewer.
        """
        start, end = self._starts[number], self._starts[number + 1]
        indices = tuple(self._indices[start:end])
        return MicroBatch(indices, self._step_rows[number], bool(self._is_dummy[number]))

    def __iter__(self) -> Iterator[MicroBatch]:
        return self.start_at(0)

    def start_at(self, number: int) -> Iterator[MicroBatch]:
        """Yield the micro-batches from `number` on."""
        return map(self.__getitem__, range(number, len(self)))


def training_micro_batches(
    lengths_N: np.ndarray,
    batch_size: int,
    accumulate: int,
    order_N: np.ndarray,
    rank: int = 0,
    world: int = 1,
    keep_micro_batches: bool = False,
) -> MicroBatches:
    """Divide an epoch into micro-batches for one process.

    An optimizer step takes `batch_size * accumulate * world` consecutive rows of the order, so the
    rows of every step stay the same when `accumulate` and `world` change and their product does
    not. They are dealt to the processes by tokens, because the slowest process determines the time
    of the step. The last step of an epoch may have fewer rows and fewer micro-batches, but the same
    number of micro-batches for every process.

    Args:
        lengths_N: int [N], tokens of each row of the shard.
        batch_size: Maximum rows of a micro-batch.
        accumulate: Micro-batches of an optimizer step.
        order_N: Permutation of the rows.
        rank: This process.
        world: Processes in all.
        keep_micro_batches: Deal every `batch_size` consecutive rows together, for losses that
            depend on which rows share a micro-batch.
    """
    step_size = batch_size * accumulate * world

    def micro_batches() -> Iterator[MicroBatch]:
        for start in range(0, len(order_N), step_size):
            step_N = order_N[start : start + step_size]
            parts = -(-len(step_N) // (batch_size * world))
            if keep_micro_batches:
                blocks = np.array_split(step_N, -(-len(step_N) // batch_size))
                tokens = [int(lengths_N[block].sum()) for block in blocks]
                own = [blocks[index] for index in deal(tokens, world, parts)[rank]]
                own += [step_N[:0]] * (parts - len(own))
            else:
                hand = deal(lengths_N[step_N].tolist(), world, parts * batch_size)[rank]
                own = np.array_split(step_N[hand], parts)
            for part in own:
                yield _micro_batch(part, len(step_N), dummy_index=int(step_N[0]))

    return MicroBatches(micro_batches())


def deal(tokens: Sequence[int], world: int, most: int) -> list[list[int]]:
    """Divide items among processes so that the largest sum of tokens is small.

    The longest item is dealt first, each to the process with the fewest tokens that has room (LPT,
    Graham, "Bounds on Multiprocessing Timing Anomalies", 1969).

    Args:
        tokens: Of each item.
        world: Processes.
        most: Maximum items of a process; `world * most` is at least the number of items.

    Returns:
        For each process, the positions of its items, ascending; none if there are too few.
    """
    if world == 1:
        return [list(range(len(tokens)))]
    hands: list[list[int]] = [[] for _ in range(world)]
    with_room = [(0, rank) for rank in range(world)]
    for item in sorted(range(len(tokens)), key=lambda item: -tokens[item]):
        total, rank = heappop(with_room)
        hands[rank].append(item)
        if len(hands[rank]) < most:
            heappush(with_room, (total + tokens[item], rank))
    return [sorted(hand) for hand in hands]


def evaluation_micro_batches(
    encoded: EncodedRows,
    tokens: int,
    rank: int = 0,
    world: int = 1,
    done_N: np.ndarray | None = None,
    padded: bool = False,
) -> MicroBatches:
    """Group rows for a pass without gradients: longest first, as many per batch as fit in `tokens`.

    The rows of a question are neighbours, so that `pack` computes the question once. A batch that
    is too large for the memory comes first. The groups depend only on the rows and `tokens`: a pass
    that resumes after an interruption makes the same ones.

    Args:
        encoded: N rows, at least one.
        tokens: Maximum tokens of a packed batch; a single longer row still makes one.
        rank: This process.
        world: Processes in all; each row goes to exactly one.
        done_N: bool [N], rows to leave out; they are taken out of their groups, and groups that end
            up empty are dropped.
        padded: Count the tokens of `pad` instead of those of `pack`.

    Returns:
        At least one micro-batch, and as many as every other process gets: dummy batches fill up.

    Raises:
        ValueError: There are no rows.
    """
    if not len(encoded):
        raise ValueError(
            "Expected at least one row to evaluate, got none. Hold rows out for validation "
            "(data.splits.val_fraction) or for the test set (data.splits.test_rows)."
        )
    if padded:
        order_N = np.argsort(-encoded.lengths_N, kind="stable")
        groups = _padded_groups(encoded, order_N, tokens)
    else:
        order_N = _question_order(encoded)
        groups = _packed_groups(encoded, order_N, tokens)
    if done_N is not None:
        groups = _without(groups, done_N)
    return MicroBatches(_evaluation_share(groups, rank, world, dummy_index=int(order_N[-1])))


def _question_order(encoded: EncodedRows) -> np.ndarray:
    """The rows by the length of their question's longest, those of a question together."""
    lengths_N, questions_N = encoded.lengths_N.astype(np.int32), encoded.prefix_groups_N
    longest_Q = np.zeros(len(encoded), dtype=np.int32)
    np.maximum.at(longest_Q, questions_N, lengths_N)
    return np.lexsort((-lengths_N, questions_N, -longest_Q[questions_N]))


def _packed_groups(encoded: EncodedRows, order_N: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Consecutive rows of the order, as many together as `pack` puts into `tokens`."""
    questions_N = encoded.prefix_groups_N[order_N]
    lengths_N = encoded.lengths_N[order_N]
    is_shared_N = np.append(False, questions_N[1:] == questions_N[:-1])
    # Tokens up to each row, where the first of a question brings the question's.
    total_N = np.cumsum(lengths_N - is_shared_N * encoded.question_prefix_N[order_N])
    start = 0
    while start < len(order_N):
        free = tokens - len(encoded.prefix_ids) - lengths_N[start]
        end = int(np.searchsorted(total_N, total_N[start] + free, side="right"))
        end = max(end, start + 1)
        yield order_N[start:end]
        start = end


def _padded_groups(encoded: EncodedRows, order_N: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Consecutive rows of the order, longest first, as many together as `pad` puts into
    `tokens`."""
    start = 0
    while start < len(order_N):
        longest = len(encoded.prefix_ids) + int(encoded.lengths_N[order_N[start]])
        end = start + max(1, tokens // longest)
        yield order_N[start:end]
        start = end


def _without(groups: Iterable[np.ndarray], done_N: np.ndarray) -> Iterator[np.ndarray]:
    """The groups without the rows that are done, and without groups of none."""
    for group in groups:
        remaining = group[~done_N[group]]
        if len(remaining):
            yield remaining


def _evaluation_share(
    groups: Iterator[np.ndarray], rank: int, world: int, dummy_index: int
) -> Iterator[MicroBatch]:
    """The micro-batches of one process, as many as every other gets."""
    none = np.empty(0, dtype=np.int64)
    # At least one per process: Lightning skips the hooks of a loop without batches.
    groups = chain([next(groups, none)], groups)
    for dealt in zip_longest(*[groups] * world, fillvalue=none):
        yield _micro_batch(dealt[rank], max(len(dealt[rank]), 1), dummy_index)


def _micro_batch(indices: np.ndarray, step_rows: int, dummy_index: int) -> MicroBatch:
    if len(indices):
        return MicroBatch(tuple(indices.tolist()), step_rows)
    return MicroBatch((dummy_index,), step_rows, is_dummy=True)


def epoch_order(rows: int, seed: int, phase: int, epoch: int) -> np.ndarray:
    """Return the order of a shard's rows in an epoch: int64 [rows], a function of its arguments."""
    return np.random.default_rng([seed, phase, epoch]).permutation(rows)


def row_order(
    labels_N: np.ndarray, stratify: bool, seed: int, phase: int, epoch: int
) -> np.ndarray:
    """Return the order of a shard's rows in an epoch, random or stratified: int64 [N].

    Args:
        labels_N: bool [N].
        stratify: See `spread_classes`.
        seed: Seed of the run.
        phase: The phase, from 1.
        epoch: The epoch, from 0.
    """
    order_N = epoch_order(len(labels_N), seed, phase, epoch)
    return spread_classes(order_N, labels_N[order_N]) if stratify else order_N


def spread_classes(order_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return an order with both classes spread evenly over it; within a class it stays as it was.

    Any consecutive rows have the class proportions of all rows, to within one row: a stratified
    sample. Rows of a class have nearly the same gradient, so most of the noise of a random batch
    comes from its class proportions (stratified sampling for SGD: Zhao and Zhang 2014,
    https://arxiv.org/abs/1405.3080).

    Args:
        order_N: int [N], rows.
        labels_N: bool [N], whether the row at each place of the order is right.
    """
    place_N = np.empty(len(order_N))
    for label in (True, False):
        count = int(np.count_nonzero(labels_N == label))
        place_N[labels_N == label] = (np.arange(count) + 0.5) / max(1, count)
    return order_N[np.argsort(place_N, kind="stable")]


class TrainingOrder(Sampler[MicroBatch]):
    """Yields the micro-batches of the current epoch from the current position on.

    `len` is always that of the whole epoch: Lightning counts a resumed epoch from its start.
    """

    def __init__(
        self,
        micro_batches: Callable[[int], MicroBatches],
        position: Callable[[], tuple[int, int]],
    ) -> None:
        """Store the two functions.

        Args:
            micro_batches: Returns the micro-batches of an epoch.
            position: Returns (epoch, micro-batches of it that are done); called whenever iteration
                begins.
        """
        self._micro_batches = micro_batches
        self._position = position
        self._length = len(micro_batches(0))

    def __iter__(self) -> Iterator[MicroBatch]:
        """Start at the position."""
        epoch, done = self._position()
        return self._micro_batches(epoch).start_at(done)

    def __len__(self) -> int:
        """Micro-batches of a whole epoch."""
        return self._length


class PackedRows(Dataset[Batch]):
    """Looks up the rows of micro-batches and packs them."""

    def __init__(
        self,
        encoded: EncodedRows,
        question_ids_N: np.ndarray | None = None,
        pack_rows: PackRows | None = None,
    ) -> None:
        """Store the rows.

        Args:
            encoded: N rows.
            question_ids_N: int64 [N], the question of each row, for losses that compare the rows of
                a question.
            pack_rows: How rows are packed; None for `pack`.
        """
        self.encoded = encoded
        self.question_ids_N = question_ids_N
        self._pack = pack_rows or pack

    def __getitem__(self, micro_batch: MicroBatch) -> Batch:
        """Pack the rows of a micro-batch."""
        indices_B = np.array(micro_batch.indices)
        batch = self._pack(self.encoded, indices_B, micro_batch.step_rows)
        if self.question_ids_N is not None:
            batch = replace(batch, questions_B=torch.from_numpy(self.question_ids_N[indices_B]))
        if micro_batch.is_dummy:
            batch.labels_B.fill_(UNLABELLED)
            batch.rows_B.fill_(-1)
        return batch


def packed_tokens(encoded: EncodedRows, indices_B: np.ndarray) -> int:
    """Return the tokens of rows in a packed batch, without the instruction.

    Args:
        encoded: The rows to choose from.
        indices_B: As for `pack`.
    """
    starts_B = encoded.starts_N[indices_B]
    groups_B = encoded.prefix_groups_N[indices_B]
    is_shared_B = np.append(False, groups_B[1:] == groups_B[:-1])
    shared = encoded.question_prefix_N[indices_B][is_shared_B].sum()
    return int((encoded.starts_N[indices_B + 1] - starts_B).sum() - shared)


def pack(encoded: EncodedRows, indices_B: np.ndarray, step_rows: int) -> Batch:
    """Lay rows end to end after the instruction; neighbours share their question's tokens too.

    A row without neighbours of its question has a span for its question all the same: what is
    computed for a row, rounding included, does not depend on the batch composition.

    Args:
        encoded: The rows to choose from.
        indices_B: int [B], positions in `encoded`.
        step_rows: Rows of the optimizer step.
    """
    spans, parents = [np.array(encoded.prefix_ids, dtype=np.int64)], [-1]
    for _, group in groupby(indices_B.tolist(), key=lambda index: encoded.prefix_groups_N[index]):
        rows = list(group)
        parent, shared = 0, int(encoded.question_prefix_N[rows[0]])
        if shared:
            parent = len(spans)
            spans.append(encoded.row(rows[0])[:shared])
            parents.append(0)
        spans += [encoded.row(row)[shared:] for row in rows]
        parents += [parent] * len(rows)
    packing = Packing(tuple(map(len, spans)), tuple(parents))
    return _batch(encoded, indices_B, step_rows, spans, packing)


def pack_contaminated(
    encoded: EncodedRows, indices_B: np.ndarray, step_rows: int, ends: tuple[tuple[int, ...], ...]
) -> Batch:
    """Lay rows end to end as plain packing does: each sees all rows before it, verdicts included.

    This is what `packing=True` of TRL's SFTTrainer did in 2024 (`ConstantLengthDataset`), with or
    without Unsloth: whole texts, instruction and verdict included, joined by the end-of-text token;
    one causal mask and running positions over all of them. There, rows were also cut where a pack
    was full; here a pack is a micro-batch, and no row is cut.

    Args:
        encoded: The rows to choose from; labelled.
        indices_B: int [B], positions in `encoded`.
        step_rows: Rows of the optimizer step.
        ends: For the labels 0 and 1, what follows a row in the text: verdict and end-of-text token.
    """
    spans: list[np.ndarray] = []
    for index in indices_B.tolist():
        spans += [encoded.prompt_ids(index), np.array(ends[encoded.labels_N[index]])]
    spans.pop()  # nothing reads what follows the last row
    parents = tuple(range(-1, len(spans) - 1))
    packing = Packing(tuple(map(len, spans)), parents, tuple(range(0, len(spans), 2)))
    return _batch(encoded, indices_B, step_rows, spans, packing)


def pad(encoded: EncodedRows, indices_B: np.ndarray, step_rows: int) -> Batch:
    """Pad every row, instruction included, to the longest: nothing is shared, as without packing.

    The padding behind a row is computed like any token and seen by none of the row's: cost and
    results are those of a padded batch.

    Args:
        encoded: The rows to choose from.
        indices_B: int [B], positions in `encoded`.
        step_rows: Rows of the optimizer step.
    """
    rows = [encoded.prompt_ids(index) for index in indices_B.tolist()]
    longest = max(map(len, rows))
    spans: list[np.ndarray] = []
    parents, row_spans = [], []
    for row in rows:
        row_spans.append(len(spans))
        spans.append(row)
        parents.append(-1)
        if len(row) < longest:
            spans.append(np.full(longest - len(row), row[-1]))
            parents.append(row_spans[-1])
    packing = Packing(tuple(map(len, spans)), tuple(parents), tuple(row_spans))
    return _batch(encoded, indices_B, step_rows, spans, packing)


def _batch(
    encoded: EncodedRows,
    indices_B: np.ndarray,
    step_rows: int,
    spans: list[np.ndarray],
    packing: Packing,
) -> Batch:
    """The batch of rows that were laid out as `spans`; positions continue along each path."""
    positions = [
        np.arange(end - len(span), end) for span, end in zip(spans, packing.ends, strict=True)
    ]
    return Batch(
        ids_T=torch.from_numpy(np.concatenate(spans).astype(np.int64)),
        positions_T=torch.from_numpy(np.concatenate(positions)),
        packing=packing,
        labels_B=torch.from_numpy(encoded.labels_N[indices_B].astype(np.int64)),
        rows_B=torch.from_numpy(encoded.rows_N[indices_B]),
        step_rows=step_rows,
    )
