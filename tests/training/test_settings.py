"""Which settings a resumed run must not change, and which combinations of prediction are
refused."""

from __future__ import annotations

from typing import Any

import pytest

from mv_lightning.training.settings import (
    LINKS,
    PredictSettings,
    RunSettings,
    resume_locked_settings,
)


def test_locked_settings_are_those_of_the_result() -> None:
    options = {
        "model.lora.r": 64,
        "model.init_from": "x",
        "data.batch_size": 2,
        "data.num_workers": 3,
        "data.run_dir": "/run",
        "trainer.max_steps": 9,
        "trainer.devices": 2,
        "run.keep": 5,
        "predict.mode": "generate",
        "seed_everything": 1,
    }
    locked = resume_locked_settings(options)
    assert set(locked) == {
        "model.lora.r",
        "data.batch_size",
        "trainer.max_steps",
        "seed_everything",
    }
    assert list(locked) == sorted(locked) and locked["model.lora.r"] == 64
    assert not set(locked) & set(LINKS.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"true_share": 0.4, "mode": "generate"}, "predict.mode=generate has none"),
        ({"threshold_share": 0.4, "mode": "generate"}, "predict.mode=generate has none"),
        ({"estimate_share": True, "mode": "generate"}, "predict.mode=generate has none"),
        ({"threshold_share": 1.0}, "between 0 and 1"),
        ({"true_share": 0.4, "calibrate": False}, "predict.calibrate=false asks for"),
    ],
)
def test_combinations_that_would_be_ignored_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PredictSettings(**settings)


@pytest.mark.parametrize("name", ["eval_every", "save_every", "keep"])
def test_a_run_is_validated_and_saved(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RunSettings(**{name: 0})
