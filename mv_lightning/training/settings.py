"""The options of the groups `run` and `predict`, and which options a resumed run must not
change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mv_lightning.data.encoding import RowsTooLong

LINKS = {
    "run.dir": "data.run_dir",
    "model.base.name": "data.base",
    "data.prompt": "model.prompt",
    "data.max_length": "model.max_length",
    "model.pair_weight": "data.pair_weight",
    "predict.source": "data.predict_source",
    "predict.id_column": "data.id_column",
    "predict.rows_too_long": "data.rows_too_long",
    "predict.mode": "model.predict_mode",
}
"""Options that a second class needs too: each is set once, and linked to the other class."""
RESUME_UNLOCKED = (
    "model.init_from",  # a resumed phase has its weights already
    "model.base.name",  # the module compares the base itself: its folder may have been moved
    "model.base.gradient_checkpointing",
    "data.source",  # the data module compares the rows themselves
    "data.prompt",  # the module compares the wording
    "data.eval_tokens",
    "data.adversarial_rows",
    "data.num_workers",
)
"""Options of `model` and `data` that do not change the result of a resumed phase."""
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
"""Options outside `model` and `data` that do."""


@dataclass(frozen=True)
class RunSettings:
    """Where a run is stored, and how often it is validated and saved."""

    dir: str = "checkpoints"
    """Folder of the run. Each phase has its own folder in it."""
    eval_every: int = 200
    """Optimizer steps between validations. One more follows the last step."""
    save_every: int = 200
    """Optimizer steps between checkpoints."""
    keep: int = 2
    """Checkpoints that are kept, the newest ones. If the newest is damaged, the one before is used.
    """
    fresh: bool = False
    """Start the phase again from its beginning (short: --fresh). An existing phase folder is
    renamed, not deleted."""

    def __post_init__(self) -> None:
        if min(self.eval_every, self.save_every, self.keep) < 1:
            raise ValueError(
                "expected run.eval_every, run.save_every and run.keep to be at least 1, got "
                f"{self.eval_every}, {self.save_every} and {self.keep}"
            )


@dataclass(frozen=True)
class PredictSettings:
    """What `predict` predicts, and how. The other commands do not use these options."""

    source: str | None = None
    """Rows to predict. Default: the `test` split of data.source. If all rows are labelled, the
    accuracy is reported."""
    mode: Literal["verdict", "generate"] = "verdict"
    """`verdict` reads the log-odds of True from one forward pass. `generate` is the way of the
    contest report: up to 64 tokens are generated and searched for True or False; a text without
    either counts as False."""
    calibrate: bool = True
    """Apply the temperature and threshold that were fitted on the adapter's validation rows. A
    generated verdict has no log-odds to calibrate."""
    true_share: float | None = None
    """Expected share of True (0 to 1) among the rows to predict, such as 0.4. Default: that of the
    training rows."""
    threshold_share: float | None = None
    """Share of True (0 to 1) among the verdicts: the threshold is a quantile of the predicted
    log-odds. It needs no calibration, so it suits rows of another source. Default: the threshold of
    the calibration."""
    estimate_share: bool = False
    """Estimate the share of True among the rows from their predictions (EM, Saerens et al. 2002),
    with a 95 % interval."""
    sample_submission: str | None = None
    """CSV of a contest with the columns ID and is_correct. Its IDs are compared with the rows
    before the prediction starts, and the submission has its order and spelling."""
    id_column: str | None = None
    """Column that identifies the rows. Default: found by name (id, ID, row_id, ...); without one,
    the row numbers."""
    rows_too_long: RowsTooLong = "error"
    """Rows that do not fit into data.max_length even without their solution: `error` names them and
    stops before the model is loaded; `missing` leaves them without a probability, and their verdict
    in the submission is False."""

    def __post_init__(self) -> None:
        if self.threshold_share is not None and not 0 < self.threshold_share < 1:
            raise ValueError(
                "expected predict.threshold_share to be between 0 and 1, got "
                f"{self.threshold_share}"
            )
        needs_log_odds = {
            "predict.true_share": self.true_share is not None,
            "predict.threshold_share": self.threshold_share is not None,
            "predict.estimate_share": self.estimate_share,
        }
        given = [name for name, is_given in needs_log_odds.items() if is_given]
        if given and self.mode == "generate":
            raise ValueError(
                f"{given[0]} needs log-odds, but predict.mode=generate has none. Leave "
                f"{given[0]} out, or set predict.mode=verdict"
            )
        if self.true_share is not None and not self.calibrate:
            raise ValueError(
                f"predict.true_share={self.true_share} shifts calibrated log-odds, but "
                "predict.calibrate=false asks for those of the model. Leave one of the two out"
            )


def resume_locked_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the result of a phase depends on.

    Args:
        options: All options of a command: dotted names and their values.
    """
    return {name: value for name, value in sorted(options.items()) if _is_locked(name)}


def _is_locked(name: str) -> bool:
    if name in RESUME_LOCKED:
        return True
    if name in LINKS.values():
        return False
    return name.startswith(("model.", "data.")) and name not in RESUME_UNLOCKED
