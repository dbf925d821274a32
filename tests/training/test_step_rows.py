"""A resumed phase has the same rows in every step, or is refused with the value to set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mv_lightning.training.step_rows import (
    StepRows,
    check_step_rows,
    current_step_rows,
    move_position,
    stored_step_rows,
)


def trainer(
    batch_size: int, accumulate: int, processes: int, rows: int = 40, **more: Any
) -> SimpleNamespace:
    """What is read of a trainer and of its data module."""
    step_rows = batch_size * accumulate * processes
    left = rows % step_rows
    data = {
        "batch_size": batch_size,
        "compares_rows": False,
        "optimizer_steps": -(-rows // step_rows),
        "micro_batches": rows // step_rows * accumulate + -(-left // (batch_size * processes)),
    }
    return SimpleNamespace(
        accumulate_grad_batches=accumulate,
        world_size=processes,
        limit_train_batches=more.pop("limit_train_batches", 1.0),
        datamodule=SimpleNamespace(**{**data, **more}),
    )


def test_what_a_checkpoint_says_of_its_steps() -> None:
    settings = {"data.batch_size": 2, "trainer.accumulate_grad_batches": 4, "model.lora.r": 8}
    stored = stored_step_rows({"settings": settings, "random": ["one", "two", "three"]})
    assert stored == StepRows(2, 4, 3) == current_step_rows(trainer(2, 4, 3))
    assert stored.rows == 24


@pytest.mark.parametrize("now", [(2, 2, 2), (2, 1, 4), (1, 1, 8), (4, 2, 1), (8, 1, 1)])
def test_other_divisions_of_the_same_rows_are_accepted(now: tuple[int, int, int]) -> None:
    check_step_rows(trainer(*now), StepRows(2, 4, 1))


@pytest.mark.parametrize(
    ("now", "advice"),
    [
        ((2, 4, 2), "Set trainer.accumulate_grad_batches=2"),
        ((4, 4, 1), "Set trainer.accumulate_grad_batches=2"),
        ((2, 4, 8), "to numbers whose product is 1"),
        ((2, 4, 3), "a number of processes that divides 8"),
    ],
)
def test_another_number_of_rows_is_refused(now: tuple[int, int, int], advice: str) -> None:
    with pytest.raises(ValueError, match=r"as before the interruption, 8 \(") as refused:
        check_step_rows(trainer(*now), StepRows(2, 4, 1))
    assert advice in str(refused.value)


def test_micro_batches_must_stay_where_something_depends_on_them() -> None:
    stored = StepRows(4, 2, 1)
    check_step_rows(trainer(4, 1, 2, compares_rows=True), stored)
    with pytest.raises(ValueError, match=r"expected data\.batch_size=4 as before .*got 8"):
        check_step_rows(trainer(8, 1, 1, compares_rows=True), stored)
    with pytest.raises(ValueError, match=r"limit_train_batches counts micro-batches"):
        check_step_rows(trainer(4, 1, 2, limit_train_batches=6), stored)


@pytest.mark.parametrize(
    ("steps", "before", "now"),
    [
        (3, (12, 12), (6, 6)),
        (5, (20, 20), (10, 10)),  # the end of the first epoch, whose last step is a whole one
        (7, (28, 8), (14, 4)),
    ],
)
def test_the_position_is_that_of_the_same_step(
    steps: int, before: tuple[int, int], now: tuple[int, int]
) -> None:
    """Steps of 8 of 40 rows, in micro-batches of 2: those of one process, then those of two."""
    progress = {
        "total": dict.fromkeys(("ready", "completed", "started"), before[0]),
        "current": dict.fromkeys(("ready", "completed", "started"), before[1]),
        "is_last_batch": False,
    }
    move_position(progress, StepRows(2, 4, 1), steps, trainer(2, 2, 2))
    assert set(progress["total"].values()) == {now[0]}
    assert set(progress["current"].values()) == {now[1]}
    assert progress["is_last_batch"] is False


def test_an_incomplete_last_step_has_its_own_number_of_micro_batches() -> None:
    """Of 43 rows, 3 make a sixth step: 2 micro-batches of one process, or 1 of each of two."""
    for steps, total, current, expected in ((6, 22, 22, 11), (7, 26, 4, 11 + 2)):
        progress = {"total": {"completed": total}, "current": {"completed": current}}
        move_position(progress, StepRows(2, 4, 1), steps, trainer(2, 2, 2, rows=43))
        assert progress["total"] == {"completed": expected}
