"""The options of the group `run`, and which options a resumed run must not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RESUME_UNLOCKED = (
    "model.init_from",  # a resumed phase has its weights already
    "model.base.name",  # the module compares the base itself: its folder may have moved
    "model.base.gradient_checkpointing",
    "model.predict_mode",
    "data.source",  # the data module compares the rows themselves
    "data.prompt",  # and the wording
    "data.predict_source",
    "data.eval_tokens",
    "data.num_workers",
)
"""Options of `model` and `data` that do not decide what a resumed phase ends with."""
RESUME_LOCKED = (
    "seed_everything",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_algorithm",
    "trainer.gradient_clip_val",
    "trainer.limit_train_batches",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.precision",
)
"""The other options that do."""


@dataclass(frozen=True)
class RunSettings:
    """Where a run lives and how often it looks at itself."""

    dir: str = "checkpoints"
    """Folder of the run; each phase has its own folder in it."""
    eval_every: int = 200
    """Optimizer steps between validations; one more follows the last step."""
    save_every: int = 200
    """Optimizer steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay; a damaged one is passed over for the one before."""
    fresh: bool = False
    """Start the phase over (short: --fresh); what it left before is moved aside, not deleted."""
    true_share: float | None = None
    """Share of True (0 to 1) expected among the rows to predict, such as 0.4; default: that of the training rows."""
    calibrate: bool = True
    """Predict with the temperature and threshold that were fitted on the adapter's validation rows; a generated
    verdict has no log-odds to calibrate."""
    sample_submission: str | None = None
    """CSV of a contest with the columns ID and is_correct; predict compares its rows and IDs before it starts."""

    def __post_init__(self) -> None:
        if min(self.eval_every, self.save_every, self.keep) < 1:
            raise ValueError(
                f"run.eval_every={self.eval_every}, run.save_every={self.save_every} and run.keep={self.keep} must be "
                "at least 1"
            )


def resume_locked_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide what a phase ends with, out of all of a command.

    Args:
        options: Dotted option names and their values.
    """
    return {
        name: value
        for name, value in sorted(options.items())
        if name in RESUME_LOCKED
        or (name.startswith(("model.", "data.")) and name not in RESUME_UNLOCKED)
    }
