"""Evaluated rows are collected whatever their batches, and keep their questions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mv_lightning.schema import EncodedRows, Split
from mv_lightning.training.evaluator import Evaluator

QUESTIONS_N = np.arange(16) // 3


def columns(rows: list[int]) -> torch.Tensor:
    """What the module returns of rows: number, label, log-odds, loss."""
    values = [[row, row % 2, row / 10, row / 100] for row in rows]
    return torch.tensor(values, dtype=torch.float64).T


@pytest.mark.parametrize("batches", [[[0, 3, 7, 9]], [[9, 3], [7], [0]]])
def test_rows_come_out_in_order(batches: list[list[int]], encoded: EncodedRows) -> None:
    logged: dict[str, float] = {}
    split = Split(encoded, QUESTIONS_N)
    trainer = SimpleNamespace(
        world_size=1,
        global_step=5,
        sanity_checking=False,
        is_global_zero=True,
        datamodule=SimpleNamespace(splits={"val": split}),
        state=SimpleNamespace(fn="fit"),
    )
    module = SimpleNamespace(log=lambda name, value, **kwargs: logged.update({name: value}))
    evaluator = Evaluator()
    for batch in batches:
        evaluator.on_validation_batch_end(trainer, module, columns(batch))  # type: ignore[arg-type]
    evaluator.on_validation_epoch_end(trainer, module)  # type: ignore[arg-type]
    outputs = evaluator.outputs
    assert outputs is not None and evaluator.step == 5
    assert outputs.rows_N.tolist() == [0, 3, 7, 9]
    assert outputs.labels_N.tolist() == [False, True, True, True]
    assert outputs.question_ids_N is not None
    assert outputs.question_ids_N.tolist() == QUESTIONS_N[[0, 3, 7, 9]].tolist()
    assert logged["val/loss"] == pytest.approx(0.0475)
    # Row 0 has log-odds of 0, which is a verdict of False.
    assert logged["val/acc"] == 1.0
