"""The record of a phase's validations survives a resume, and leaves other evaluations out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from mv_lightning.training.validation_record import ValidationRecord, read_validation_record


def trainer(step: int, log_loss: float, **values: object) -> SimpleNamespace:
    defaults = {
        "state": SimpleNamespace(fn="fit"),
        "sanity_checking": False,
        "is_global_zero": True,
        "global_step": step,
        "max_steps": 14,
        "max_epochs": -1,
        "callback_metrics": {"val/log_loss": log_loss},
    }
    return SimpleNamespace(**{**defaults, **values})


def test_a_resumed_phase_continues_the_record(tmp_path: Path) -> None:
    path = tmp_path / "new" / "validations.json"
    assert read_validation_record(path) == {}
    record = ValidationRecord(str(path))
    record.on_validation_end(trainer(2, 0.75), None)  # type: ignore[arg-type]
    record.on_validation_end(trainer(10, 0.5), None)  # type: ignore[arg-type]
    resumed = ValidationRecord(str(path))
    resumed.on_validation_end(trainer(12, 0.25), None)  # type: ignore[arg-type]
    for other in (
        trainer(14, 0.1),
        trainer(99, 0.1, sanity_checking=True),
        trainer(99, 0.1, is_global_zero=False),
        trainer(99, 0.1, state=SimpleNamespace(fn="validate")),
    ):
        resumed.on_validation_end(other, None)  # type: ignore[arg-type]
    assert list(read_validation_record(path).items()) == [(2, 0.75), (10, 0.5), (12, 0.25)]
