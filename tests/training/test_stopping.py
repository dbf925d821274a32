"""The planned steps of a phase."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mv_lightning.training.stopping import planned_steps


def trainer(max_steps: int, max_epochs: int | None) -> SimpleNamespace:
    """A trainer whose data gives 7 steps an epoch."""
    data = SimpleNamespace(optimizer_steps=7)
    return SimpleNamespace(max_steps=max_steps, max_epochs=max_epochs, datamodule=data)


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "planned"),
    [(-1, 1, 7), (-1, 3, 21), (5, 1, 5), (50, 2, 14), (50, -1, 50), (9, None, 9)],
)
def test_the_nearer_limit_counts(max_steps: int, max_epochs: int | None, planned: int) -> None:
    assert planned_steps(trainer(max_steps, max_epochs)) == planned


def test_training_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a limit on the training"):
        planned_steps(trainer(-1, -1))
