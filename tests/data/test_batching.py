"""Every row of an epoch once, in an order that is a function of seed, phase and epoch, wherever one starts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.batching import (
    PackedRows,
    Pick,
    TrainingOrder,
    epoch_order,
    evaluation_picks,
    pack,
    training_picks,
)
from mv_lightning.schema import EncodedRows

SIZES = st.integers(1, 200)


@settings(deadline=None)
@given(rows=SIZES, batch=st.integers(1, 9), accumulate=st.integers(1, 5), world=st.integers(1, 4))
def test_an_epoch_has_every_row_once_over_all_processes(rows: int, batch: int, accumulate: int, world: int) -> None:
    order = epoch_order(rows, seed=1, phase=1, epoch=0)
    per_rank = [training_picks(rows, batch, accumulate, order, rank, world) for rank in range(world)]
    seen = [i for picks in per_rank for pick in picks if pick.counts for i in pick.indices]
    assert sorted(seen) == list(range(rows))
    assert len({len(picks) for picks in per_rank}) == 1, "processes must stay in step"
    assert all(1 <= len(pick.indices) <= batch for picks in per_rank for pick in picks)
    step = batch * accumulate * world
    for picks in per_rank:
        for index, pick in enumerate(picks):
            start = index // accumulate * step
            assert pick.step_rows == min(step, rows - start)
            assert set(pick.indices) <= set(order[start : start + step].tolist())


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), tokens=st.integers(1, 900), world=st.integers(1, 3)
)
def test_evaluation_sees_every_row_once_within_the_budget(lengths: list[int], tokens: int, world: int) -> None:
    sizes, prefix = np.array(lengths), 10
    per_rank = [evaluation_picks(sizes, prefix, tokens, rank, world) for rank in range(world)]
    seen = [i for picks in per_rank for pick in picks if pick.counts for i in pick.indices]
    assert sorted(seen) == list(range(len(lengths)))
    assert len({len(picks) for picks in per_rank}) == 1
    for pick in (p for picks in per_rank for p in picks):
        held = prefix + int(sizes[list(pick.indices)].sum())
        assert held <= tokens or len(pick.indices) == 1
    if world == 1:
        assert [sizes[i] for i in seen] == sorted(lengths, reverse=True)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    world=st.integers(1, 3),
    stopped=st.integers(0, 60),
    others=st.sets(st.integers(0, 59)),
)
def test_an_evaluation_goes_on_with_the_batches_it_would_have_made(
    lengths: list[int], world: int, stopped: int, others: set[int]
) -> None:
    sizes = np.array(lengths)
    whole = evaluation_picks(sizes, 10, 400)
    done = np.zeros(len(lengths), dtype=bool)
    done[[i for pick in whole[:stopped] for i in pick.indices]] = True
    left = [pick for pick in evaluation_picks(sizes, 10, 400, done_N=done) if pick.counts]
    assert left == whole[stopped:]
    # Rows in no order, as after a change of the token budget: each of the others once, over all processes.
    done[[i for i in others if i < len(lengths)]] = True
    per_rank = [evaluation_picks(sizes, 10, 300, rank, world, done) for rank in range(world)]
    assert sorted(i for picks in per_rank for pick in picks if pick.counts for i in pick.indices) == (
        np.flatnonzero(~done).tolist()
    )
    assert len({len(picks) for picks in per_rank}) == 1 and per_rank[0]


def test_the_order_is_a_pure_function() -> None:
    first = epoch_order(50, seed=3, phase=1, epoch=0)
    assert np.array_equal(first, epoch_order(50, 3, 1, 0))
    for other in ((4, 1, 0), (3, 2, 0), (3, 1, 1)):
        assert not np.array_equal(first, epoch_order(50, *other))


@given(done=st.integers(0, 10))
def test_starting_in_the_middle_yields_the_rest(done: int) -> None:
    def picks(epoch: int) -> list[Pick]:
        return training_picks(10, 1, 1, epoch_order(10, 0, 1, epoch))

    order = TrainingOrder(picks, position=lambda: (2, done))
    assert list(order) == picks(2)[done:] and len(order) == 10


def test_packing_lays_rows_end_to_end_behind_one_prefix(encoded: EncodedRows) -> None:
    batch = pack(encoded, np.array([4, 1]), step_rows=2)
    prefix = list(encoded.prefix_ids)
    rows = [encoded.ids_T[encoded.starts_N[i] : encoded.starts_N[i + 1]].tolist() for i in (4, 1)]
    assert batch.ids_T.tolist() == prefix + rows[0] + rows[1]
    p = len(prefix)
    assert batch.positions_T.tolist() == [*range(p), *range(p, p + len(rows[0])), *range(p, p + len(rows[1]))]
    assert batch.verdict_B.tolist() == [p + len(rows[0]) - 1, p + len(rows[0]) + len(rows[1]) - 1]
    assert batch.rows_B.tolist() == [4, 1] and batch.labels_B.tolist() == encoded.labels_N[[4, 1]].tolist()
    assert batch.tokens == sum(p + len(row) for row in rows)


def test_a_stand_in_is_masked(encoded: EncodedRows) -> None:
    batch = PackedRows(encoded)[Pick((0,), 4, counts=False)]
    assert batch.labels_B.tolist() == [-1] and batch.rows_B.tolist() == [-1]
    assert encoded.labels_N[0] in (0, 1)
