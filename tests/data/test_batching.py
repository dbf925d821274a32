"""Every row of an epoch once, in an order that is a function of seed, phase and epoch."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.batching import (
    MicroBatch,
    MicroBatches,
    PackedRows,
    TrainingOrder,
    deal,
    epoch_order,
    evaluation_micro_batches,
    pack,
    pack_contaminated,
    packed_tokens,
    pad,
    spread_classes,
    training_micro_batches,
)
from mv_lightning.schema import EncodedRows

SIZES = st.integers(1, 200)
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 300)), min_size=1, max_size=60)
"""Question and own length of each row; question 0 is one that no other row has."""


def rows_of(rows: list[tuple[int, int]]) -> EncodedRows:
    """Rows whose question `q` is `4 * q` tokens of its own number."""
    ids = [
        np.concatenate([np.full(4 * question, question), np.full(own, 7)]) for question, own in rows
    ]
    return EncodedRows(
        ids_T=np.concatenate(ids).astype(np.int32),
        starts_N=np.cumsum([0, *map(len, ids)]),
        labels_N=np.zeros(len(rows), dtype=np.int8),
        rows_N=np.arange(len(rows)),
        truncated_N=np.zeros(len(rows), dtype=np.int32),
        question_prefix_N=np.array([4 * question for question, _ in rows], dtype=np.int32),
        prefix_ids=tuple(range(10)),
    )


def indices_of(micro_batches: Iterable[MicroBatch]) -> list[int]:
    return [i for batch in micro_batches if not batch.is_dummy for i in batch.indices]


@settings(deadline=None)
@given(
    rows=SIZES,
    batch=st.integers(1, 9),
    accumulate=st.integers(1, 5),
    world=st.integers(1, 5),
    keep=st.booleans(),
)
def test_an_epoch_has_every_row_once_over_all_processes(
    rows: int, batch: int, accumulate: int, world: int, keep: bool
) -> None:
    order = epoch_order(rows, seed=1, phase=1, epoch=0)
    lengths = np.random.default_rng(rows).integers(1, 300, rows)
    per_rank = [
        training_micro_batches(lengths, batch, accumulate, order, rank, world, keep)
        for rank in range(world)
    ]
    seen = [i for micro_batches in per_rank for i in indices_of(micro_batches)]
    assert sorted(seen) == list(range(rows))
    assert len({len(micro_batches) for micro_batches in per_rank}) == 1, (
        "processes must stay in step"
    )
    assert all(
        1 <= len(micro_batch.indices) <= batch
        for micro_batches in per_rank
        for micro_batch in micro_batches
    )
    step = batch * accumulate * world
    for micro_batches in per_rank:
        for index, micro_batch in enumerate(micro_batches):
            start = index // accumulate * step
            assert micro_batch.step_rows == min(step, rows - start)
            assert set(micro_batch.indices) <= set(order[start : start + step].tolist())


@settings(deadline=None)
@given(rows=SIZES, world=st.sampled_from([2, 4, 8]), keep=st.booleans())
def test_the_rows_of_a_step_do_not_depend_on_the_processes(
    rows: int, world: int, keep: bool
) -> None:
    """Nor do the micro-batches where the loss depends on them."""
    order = epoch_order(rows, seed=2, phase=3, epoch=1)
    lengths = np.random.default_rng(rows).integers(1, 300, rows)

    def steps(accumulate: int, world: int) -> list[set[tuple[int, ...]]]:
        found: list[set[tuple[int, ...]]] = [set() for _ in range(-(-rows // 16))]
        for rank in range(world):
            micro_batches = training_micro_batches(lengths, 2, accumulate, order, rank, world, keep)
            for index, micro_batch in enumerate(micro_batches):
                if not micro_batch.is_dummy:
                    found[index // accumulate].add(micro_batch.indices)
        return found

    one, several = steps(8, 1), steps(8 // world, world)
    if keep:
        assert one == several
    for left, right in zip(one, several, strict=True):
        assert set(itertools.chain(*left)) == set(itertools.chain(*right))


@settings(deadline=None)
@given(tokens=st.lists(st.integers(1, 900), min_size=1, max_size=60), world=st.integers(1, 8))
def test_no_process_waits_long_for_another(tokens: list[int], world: int) -> None:
    """At most the longest item more than an even division (Graham's bound of any list order)."""
    hands = deal(tokens, world, most=len(tokens))
    assert sorted(itertools.chain(*hands)) == list(range(len(tokens)))
    slowest = max(sum(tokens[item] for item in hand) for hand in hands)
    assert slowest <= sum(tokens) / world + max(tokens) * (1 - 1 / world) + 1e-9
    most = -(-len(tokens) // world)
    assert max(map(len, deal(tokens, world, most))) <= most


def test_long_rows_are_dealt_with_short_ones() -> None:
    lengths = np.array([900, 800, 30, 20, 700, 600, 10, 40])
    micro_batches = [
        training_micro_batches(lengths, 2, 2, np.arange(8), rank, world=2) for rank in range(2)
    ]
    tokens = [lengths[indices_of(batches)].sum() for batches in micro_batches]
    assert tokens == [1550, 1550]
    assert [len(indices_of(batches)) for batches in micro_batches] == [4, 4]


@settings(deadline=None)
@given(rows=ROWS, tokens=st.integers(1, 900), world=st.integers(1, 3))
def test_evaluation_sees_every_row_once_within_the_budget(
    rows: list[tuple[int, int]], tokens: int, world: int
) -> None:
    encoded = rows_of(rows)
    per_rank = [evaluation_micro_batches(encoded, tokens, rank, world) for rank in range(world)]
    seen = [
        i
        for micro_batches in per_rank
        for micro_batch in micro_batches
        if not micro_batch.is_dummy
        for i in micro_batch.indices
    ]
    assert sorted(seen) == list(range(len(rows)))
    assert len({len(micro_batches) for micro_batches in per_rank}) == 1
    for micro_batch in (p for micro_batches in per_rank for p in micro_batches):
        batch = pack(encoded, np.array(micro_batch.indices), 1)
        assert len(batch.ids_T) <= tokens or len(micro_batch.indices) == 1
        assert micro_batch.step_rows == len(micro_batch.indices)
    if world == 1:
        questions = [encoded.prefix_groups_N[i] for i in seen]
        runs = [question for question, _ in itertools.groupby(questions)]
        assert len(runs) == len(set(runs)), "a question's rows stand together"
        longest = [max(encoded.lengths_N[encoded.prefix_groups_N == question]) for question in runs]
        assert longest == sorted(longest, reverse=True)
        for _, group in itertools.groupby(seen, key=lambda i: encoded.prefix_groups_N[i]):
            lengths = [encoded.lengths_N[i] for i in group]
            assert lengths == sorted(lengths, reverse=True)


def plain_groups(encoded: EncodedRows, tokens: int, padded: bool) -> list[list[int]]:
    """The groups of an evaluation, made row by row."""
    lengths, questions = encoded.lengths_N.tolist(), encoded.prefix_groups_N.tolist()
    prefix, rows = len(encoded.prefix_ids), range(len(encoded))
    longest = {q: max(lengths[i] for i in rows if questions[i] == q) for q in questions}

    def place(i: int) -> tuple[int, ...]:
        return (-lengths[i],) if padded else (-longest[questions[i]], questions[i], -lengths[i])

    def size(group: list[int]) -> int:
        if padded:
            return len(group) * (prefix + lengths[group[0]])
        return prefix + packed_tokens(encoded, np.array(group))

    first, *others = sorted(rows, key=place)
    groups = [[first]]
    for index in others:
        if size([*groups[-1], index]) <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@settings(deadline=None)
@given(
    rows=ROWS,
    tokens=st.integers(1, 1500),
    world=st.integers(1, 4),
    done=st.sets(st.integers(0, 59)),
    padded=st.booleans(),
)
def test_groups_are_those_of_a_plain_loop(
    rows: list[tuple[int, int]], tokens: int, world: int, done: set[int], padded: bool
) -> None:
    encoded = rows_of(rows)
    every = plain_groups(encoded, tokens, padded)
    left = [[i for i in group if i not in done] for group in every]
    dummy = MicroBatch((every[-1][-1],), step_rows=1, is_dummy=True)
    done_N = np.isin(np.arange(len(rows)), list(done))
    for groups, given_N in ((every, None), ([group for group in left if group], done_N)):
        for rank in range(world):
            expected = [MicroBatch(tuple(group), len(group)) for group in groups[rank::world]]
            expected += [dummy] * (max(1, -(-len(groups) // world)) - len(expected))
            own = evaluation_micro_batches(encoded, tokens, rank, world, given_N, padded)
            assert list(own) == expected


@given(
    micro_batches=st.lists(
        st.builds(
            MicroBatch,
            st.lists(st.integers(0, 2**31 - 1), min_size=1).map(tuple),
            st.integers(1, 10**6),
            st.booleans(),
        )
    )
)
def test_micro_batches_are_those_that_were_stored(micro_batches: list[MicroBatch]) -> None:
    stored = MicroBatches(iter(micro_batches))
    assert list(stored) == micro_batches and len(stored) == len(micro_batches)
    for number, micro_batch in enumerate(micro_batches):
        assert stored[number] == micro_batch
        assert list(stored.start_at(number)) == micro_batches[number:]
    with pytest.raises(IndexError):
        stored[len(micro_batches)]


@pytest.mark.parametrize("padded", [True, False])
def test_a_pass_takes_few_bytes_a_row(padded: bool) -> None:
    encoded = rows_of([(1, 5 + i % 50) for i in range(20_000)])
    _ = encoded.prefix_groups_N  # computed once for all passes
    tracemalloc.start()
    micro_batches = evaluation_micro_batches(encoded, 8192, padded=padded)
    held, peak = (size / len(encoded) for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert len(micro_batches) > 60
    assert held < 6 and peak < 50


@settings(deadline=None)
@given(
    rows=ROWS,
    world=st.integers(1, 3),
    stopped=st.integers(0, 60),
    others=st.sets(st.integers(0, 59)),
)
def test_a_resumed_evaluation_has_the_batches_of_an_uninterrupted_one(
    rows: list[tuple[int, int]], world: int, stopped: int, others: set[int]
) -> None:
    encoded = rows_of(rows)
    whole = list(evaluation_micro_batches(encoded, 400))
    done = np.zeros(len(rows), dtype=bool)
    done[[i for micro_batch in whole[:stopped] for i in micro_batch.indices]] = True
    left = [
        micro_batch
        for micro_batch in evaluation_micro_batches(encoded, 400, done_N=done)
        if not micro_batch.is_dummy
    ]
    assert left == whole[stopped:]
    # Any rows, as after a change of the token budget: each of the others once, over all processes.
    done[[i for i in others if i < len(rows)]] = True
    per_rank = [evaluation_micro_batches(encoded, 300, rank, world, done) for rank in range(world)]
    assert sorted(
        i
        for micro_batches in per_rank
        for micro_batch in micro_batches
        if not micro_batch.is_dummy
        for i in micro_batch.indices
    ) == (np.flatnonzero(~done).tolist())
    assert len({len(micro_batches) for micro_batches in per_rank}) == 1 and per_rank[0]


def test_the_order_is_a_pure_function() -> None:
    first = epoch_order(50, seed=3, phase=1, epoch=0)
    assert np.array_equal(first, epoch_order(50, 3, 1, 0))
    for other in ((4, 1, 0), (3, 2, 0), (3, 1, 1)):
        assert not np.array_equal(first, epoch_order(50, *other))


@given(
    labels=st.lists(st.booleans(), min_size=1, max_size=120),
    step=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_spread_classes_gives_every_step_the_class_shares(
    labels: list[bool], step: int, seed: int
) -> None:
    labels_N = np.array(labels)
    random_N = epoch_order(len(labels), seed, 1, 0)
    order_N = spread_classes(random_N, labels_N[random_N])
    for label in (True, False):
        of_class = [row for row in order_N.tolist() if labels_N[row] == label]
        assert of_class == [row for row in random_N.tolist() if labels_N[row] == label]
    for start in range(len(labels) - step + 1):
        rows_N = order_N[start : start + step]
        assert abs(labels_N[rows_N].sum() - step * labels_N.mean()) < 1 + 1e-9


@given(done=st.integers(0, 10))
def test_starting_in_the_middle_yields_the_rest(done: int) -> None:
    def micro_batches(epoch: int) -> MicroBatches:
        return training_micro_batches(np.ones(10), 1, 1, epoch_order(10, 0, 1, epoch))

    order = TrainingOrder(micro_batches, position=lambda: (2, done))
    assert list(order) == list(micro_batches(2))[done:] and len(order) == 10


def test_packing_lays_rows_end_to_end_behind_one_prefix(encoded: EncodedRows) -> None:
    batch = pack(encoded, np.array([4, 1]), step_rows=2)
    prefix = list(encoded.prefix_ids)
    rows = [encoded.row(i).tolist() for i in (4, 1)]
    assert batch.ids_T.tolist() == prefix + rows[0] + rows[1]
    p = len(prefix)
    assert batch.positions_T.tolist() == [
        *range(p),
        *range(p, p + len(rows[0])),
        *range(p, p + len(rows[1])),
    ]
    assert batch.verdict_B.tolist() == [p + len(rows[0]) - 1, p + len(rows[0]) + len(rows[1]) - 1]
    assert (
        batch.rows_B.tolist() == [4, 1]
        and batch.labels_B.tolist() == encoded.labels_N[[4, 1]].tolist()
    )
    assert batch.tokens == sum(p + len(row) for row in rows)


@settings(deadline=None)
@given(rows=ROWS, seed=st.integers(0, 9))
def test_every_row_can_be_read_back_from_its_path(rows: list[tuple[int, int]], seed: int) -> None:
    encoded = rows_of(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    batch = pack(encoded, order, len(rows))
    spans, positions = (x.split(batch.packing.lengths) for x in (batch.ids_T, batch.positions_T))
    assert len(batch.packing.leaves) == len(rows)
    for index, leaf in zip(order, batch.packing.leaves, strict=True):
        path = batch.packing.paths[leaf]
        assert torch.cat([spans[step] for step in path]).tolist() == [
            *encoded.prefix_ids,
            *encoded.row(index),
        ]
        assert torch.cat([positions[step] for step in path]).tolist() == list(
            range(10 + encoded.lengths_N[index])
        )
    ends = np.cumsum(batch.packing.lengths)[list(batch.packing.leaves)] - 1
    assert batch.verdict_B.tolist() == ends.tolist()
    assert batch.tokens == 10 * len(rows) + encoded.lengths_N.sum()
    assert packed_tokens(encoded, order) == len(batch.ids_T) - 10


def test_neighbours_of_one_question_share_it(siblings: EncodedRows) -> None:
    micro_batches = evaluation_micro_batches(siblings, 10_000)
    (batch,) = (pack(siblings, np.array(micro_batch.indices), 8) for micro_batch in micro_batches)
    assert siblings.prefix_groups_N.tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    saved = 3 * siblings.question_prefix_N[0] + 2 * siblings.question_prefix_N[5]
    assert len(batch.ids_T) == len(siblings.prefix_ids) + siblings.lengths_N.sum() - saved
    apart = pack(siblings, np.array([0, 4, 1, 5, 2]), 5)
    assert len(apart.packing.lengths) == 1 + 2 * 5
    assert len(apart.ids_T) == len(siblings.prefix_ids) + siblings.lengths_N[[0, 4, 1, 5, 2]].sum()


def test_the_spans_of_a_row_do_not_depend_on_the_batch_composition(siblings: EncodedRows) -> None:
    """So neither does the rounding: every product of attention has the same shape."""
    together = pack(siblings, np.arange(8), 8).packing
    for row, leaf in enumerate(together.leaves):
        alone = pack(siblings, np.array([row]), 1).packing
        assert alone.lengths == tuple(together.lengths[span] for span in together.paths[leaf])


def test_a_dummy_batch_is_masked(encoded: EncodedRows) -> None:
    batch = PackedRows(encoded)[MicroBatch((0,), 4, is_dummy=True)]
    assert batch.labels_B.tolist() == [-1] and batch.rows_B.tolist() == [-1]
    assert encoded.labels_N[0] in (0, 1)


def test_rows_are_looked_up_by_their_position(encoded: EncodedRows) -> None:
    renumbered = dataclasses.replace(encoded, rows_N=encoded.rows_N + 100)
    batch = PackedRows(renumbered)[MicroBatch((5, 2), step_rows=7)]
    assert batch.rows_B.tolist() == [105, 102] and batch.step_rows == 7
    assert batch.labels_B.tolist() == encoded.labels_N[[5, 2]].tolist()
    assert batch.questions_B is None


def test_rows_know_their_question_where_it_is_given(encoded: EncodedRows) -> None:
    rows = PackedRows(encoded, np.arange(16) // 3)
    batch = rows[MicroBatch((5, 2, 3), step_rows=7)].to(torch.device("meta"))
    assert batch.questions_B is not None and batch.questions_B.device.type == "meta"
    assert rows[MicroBatch((5, 2, 3), step_rows=7)].questions_B.tolist() == [1, 0, 1]


def test_evaluation_batches_are_filled_up_to_their_tokens() -> None:
    """10 tokens of the instruction, 4 of the question once, then the rows' own."""
    encoded = rows_of([(1, 20), (1, 30), (1, 10), (2, 5)])
    for tokens, expected in (
        (74, [(1, 0, 2), (3,)]),
        (73, [(1, 0), (2, 3)]),
        (87, [(1, 0, 2, 3)]),
        (86, [(1, 0, 2), (3,)]),
    ):
        micro_batches = evaluation_micro_batches(encoded, tokens)
        assert [micro_batch.indices for micro_batch in micro_batches] == expected
    done_N = np.array([False, True, False, True])
    first, dummy = (evaluation_micro_batches(encoded, 87, rank, 2, done_N)[0] for rank in (0, 1))
    assert first == MicroBatch((0, 2), step_rows=2)
    assert dummy == MicroBatch((3,), step_rows=1, is_dummy=True)


def test_no_rows_cannot_be_evaluated(encoded: EncodedRows) -> None:
    none = dataclasses.replace(
        encoded, rows_N=encoded.rows_N[:0], starts_N=encoded.starts_N[:1], ids_T=encoded.ids_T[:0]
    )
    with pytest.raises(ValueError, match=r"at least one row to evaluate.*val_fraction.*test_rows"):
        evaluation_micro_batches(none, 100)


def test_contaminated_rows_are_joined_with_their_verdicts(siblings: EncodedRows) -> None:
    indices, ends = [0, 4, 1], ((70, 2), (71, 2))
    batch = pack_contaminated(siblings, np.array(indices), 3, ends)
    whole = [[*siblings.prefix_ids, *siblings.row(index).tolist()] for index in indices]
    assert siblings.labels_N[indices].tolist() == [1, 1, 0]
    assert batch.ids_T.tolist() == [*whole[0], 71, 2, *whole[1], 71, 2, *whole[2]]
    assert batch.positions_T.tolist() == list(range(len(batch.ids_T)))
    assert batch.packing.paths[-1] == (0, 1, 2, 3, 4), "the last row sees all before it"
    firsts = [0, len(whole[0]) + 2, len(whole[0]) + len(whole[1]) + 4]
    lasts = [first + len(row) - 1 for first, row in zip(firsts, whole, strict=True)]
    assert batch.verdict_B.tolist() == lasts
    assert batch.tokens == sum(map(len, whole))
    assert batch.rows_B.tolist() == indices and batch.step_rows == 3


def test_padded_rows_share_nothing(siblings: EncodedRows) -> None:
    indices = [4, 0, 5]
    batch = pad(siblings, np.array(indices), 3)
    whole = [[*siblings.prefix_ids, *siblings.row(index).tolist()] for index in indices]
    longest = max(map(len, whole))
    assert batch.ids_T.shape == (3 * longest,)
    for start, row in zip(range(0, 3 * longest, longest), whole, strict=True):
        assert batch.ids_T[start : start + len(row)].tolist() == row
        assert batch.positions_T[start : start + longest].tolist() == list(range(longest))
    assert batch.verdict_B.tolist() == [i * longest + len(row) - 1 for i, row in enumerate(whole)]
    assert batch.tokens == sum(map(len, whole)) and len(set(map(len, whole))) > 1
    for row in batch.packing.row_spans or ():
        assert batch.packing.paths[row] == (row,)


@given(rows=ROWS, tokens=st.integers(1, 900))
def test_padded_evaluation_stays_within_the_budget(
    rows: list[tuple[int, int]], tokens: int
) -> None:
    encoded = rows_of(rows)
    micro_batches = evaluation_micro_batches(encoded, tokens, padded=True)
    seen = [index for micro_batch in micro_batches for index in micro_batch.indices]
    assert sorted(seen) == list(range(len(rows)))
    for micro_batch in micro_batches:
        batch = pad(encoded, np.array(micro_batch.indices), 1)
        assert len(batch.ids_T) <= tokens or len(micro_batch.indices) == 1
    for full, following in itertools.pairwise(micro_batches):
        one_more = np.array([*full.indices, following.indices[0]])
        assert len(pad(encoded, one_more, 1).ids_T) > tokens
