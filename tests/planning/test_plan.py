"""What holds for every plan, and the strategies that follow from memory and links."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mv_lightning.data.batching import pack
from mv_lightning.model.gpus import GPUS
from mv_lightning.planning.plan import (
    choose,
    fastest,
    largest_micro_batch,
    mean_tokens,
    memory_budget,
    memory_items,
    plan_phase,
    tokens_of_rows,
)
from mv_lightning.schema import EncodedRows
from tests.planning.made_training import LARGER, TRAINING, WORK, cluster

GPU_NAMES = st.sampled_from([gpu.name for gpu in GPUS])


@settings(max_examples=40)
@example("L40", 2, 1, 3_266_632_700.0, LARGER, 50)  # then 2 of 3 GPUs on each of two nodes
@given(
    GPU_NAMES,
    st.integers(1, 6),
    st.integers(1, 3),
    st.floats(1e8, 1e11),
    st.sampled_from([TRAINING, LARGER]),
    st.sampled_from([-1, 50]),
)
def test_more_gpus_are_never_slower(gpu, gpus, nodes, network, training, max_steps) -> None:  # type: ignore[no-untyped-def]
    work = replace(WORK, max_steps=max_steps)
    hours = []
    for more_gpus, more_nodes in ((0, 0), (0, 1), (1, 1)):
        machine = cluster(gpu, gpus, nodes + more_nodes, network)
        if more_gpus:
            machine = replace(machine, gpus=gpus + more_gpus)
        choice = fastest(work, training, machine, range(1, machine.size + 1))
        hours.append(np.inf if choice is None else choice.hours)
    assert hours[0] >= hours[1] >= hours[2]


@settings(max_examples=30)
@given(GPU_NAMES, st.integers(1, 8), st.floats(0.1, 10))
def test_a_plan_fits_and_keeps_the_rows_of_a_step(gpu: str, gpus: int, price: float) -> None:
    machine = cluster(gpu, gpus)
    plan = plan_phase(WORK, TRAINING, machine)
    choice = plan.recommended
    assert choice is not None and choice.peak_bytes <= memory_budget(machine)
    assert choice.peak_bytes == sum(item.bytes for item in choice.items)
    assert WORK.step_rows % choice.micro_batch == 0
    assert choice.tokens == pytest.approx(choice.gpus * WORK.step_rows * 385)
    assert choice.steps == -(-19_800 // (8 * choice.gpus))
    seconds = choice.steps * (choice.computing + choice.communicating) + choice.validating
    assert choice.cost(price) == pytest.approx(seconds / 3600 * price * choice.gpus)
    if plan.configured.strategy != "does not fit":
        assert choice.hours <= plan.configured.hours


@given(GPU_NAMES, st.integers(1, 2), st.integers(100, 4_096))
def test_the_largest_micro_batch_fits_and_the_next_does_not(
    gpu: str, gpus: int, tokens: int
) -> None:
    machine = cluster(gpu, gpus)
    rows = largest_micro_batch(TRAINING, machine, tokens)

    def peak(rows: int) -> float:
        items = memory_items(TRAINING, rows * tokens, rows, True, distributed=gpus > 1)
        return sum(item.bytes for item in items)

    assert rows >= 1
    assert peak(rows) <= memory_budget(machine) < peak(rows + 1)
    assert largest_micro_batch(LARGER, machine, 100_000_000) == 0


def test_the_base_is_sharded_where_it_does_not_fit() -> None:
    one = plan_phase(WORK, LARGER, cluster("A100-40"))
    assert one.recommended is None and one.configured.strategy == "does not fit"
    plan = plan_phase(WORK, LARGER, cluster("A100-40", gpus=8))
    choice = plan.recommended
    assert (
        choice is not None and choice.strategy == "sharded base" and plan.largest_micro_batch == 0
    )
    items = {item.name: item for item in choice.items}
    assert items["base, 4 bits"].bytes == pytest.approx(34e9 / choice.gpus)
    assert items["two gathered layers"].bytes == pytest.approx(2 / 80 * 68e9 / 2)
    assert items["base, scales"].bytes == pytest.approx(68e9 / 64 * (1 + 4 / 256))
    assert any("DDP" in name for name in items)
    # Weights are gathered in each of two passes, beside the exchange of gradients.
    copied = choose(WORK, TRAINING, cluster("A100-40", gpus=8), 1, True, [8])
    assert choice.communicating > copied.communicating


def test_a_base_that_fits_on_one_gpu_but_not_beside_the_exchange_of_gradients() -> None:
    four = cluster("H100", gpus=4)
    alone, beside = [
        choose(WORK, LARGER, four, 1, True, [gpus]).peak_bytes / memory_budget(four)
        for gpus in (1, 2)
    ]
    assert alone < beside
    memory = four.device.memory * (alone + beside) / 2
    smaller = replace(four, device=replace(four.device, memory=memory))
    choice = choose(WORK, LARGER, smaller, 1, True, range(1, 5))
    assert (choice.strategy, choice.gpus, choice.shards) == ("sharded base", 4, 4)
    assert choose(WORK, LARGER, smaller, 1, True, [1]).strategy == "one process"


def test_a_slow_network_leaves_the_work_to_one_process() -> None:
    machine = cluster("H100", gpus=1, nodes=2, network=1.25e9)  # 10 Gbit/s
    choice = plan_phase(WORK, TRAINING, machine).recommended
    assert choice is not None and (choice.strategy, choice.gpus) == ("one process", 1)
    (both,) = [fastest(WORK, TRAINING, machine, [2])]
    assert both is not None and both.strategy == "DDP" and both.hours > choice.hours


def test_steps_end_at_the_first_limit() -> None:
    assert WORK.steps(1) == 2_475 and WORK.steps(512) == 5
    assert replace(WORK, max_epochs=3).steps(64) == 3 * 39
    assert replace(WORK, max_steps=50).steps(1) == 50
    assert replace(WORK, max_epochs=-1, max_steps=70).steps(512) == 70


def test_validations_take_time() -> None:
    machine = cluster("L4")
    without, some, often = (
        choose(replace(WORK, **changes), TRAINING, machine, 2, True, [1])
        for changes in ({"validation_rows": 0}, {}, {"eval_every": 10})
    )
    assert without.validating == 0
    assert often.validating == pytest.approx(some.validating * 248 / 13)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_tokens_are_those_of_packed_batches(siblings: EncodedRows, rows: int) -> None:
    order_N = np.array([6, 7, 5, 0, 2, 1, 4, 3])
    lengths = []
    for start in range(0, 8, rows):
        indices_B = order_N[start : start + rows]
        lengths.append(len(pack(siblings, indices_B, rows).ids_T))
    mean, most = tokens_of_rows(siblings, order_N)(rows)
    assert mean == pytest.approx(np.mean(lengths)) and most == max(lengths)


def test_rows_of_a_given_mean_share_nothing() -> None:
    assert mean_tokens(385, 2_048)(4) == (1_540, 8_192)
