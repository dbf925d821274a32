"""One phase of a run: where it lives, how it starts or goes on, and what it leaves when it is finished."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mv_lightning.atomic import move_aside, write_json

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import Trainer

    from mv_lightning.training.callbacks import BestAdapter, Vitals
    from mv_lightning.training.datamodule import VerdictDataModule
    from mv_lightning.training.evaluation import Assessment
    from mv_lightning.training.module import VerdictModule

LOGS = "tensorboard"
ADAPTER = "adapter"

FREE_TO_CHANGE = (
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
DECIDING = (
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


@dataclass(frozen=True)
class PhaseFolder:
    """The places of a phase in its run's folder."""

    run: Path
    """The run's folder (`run.dir`)."""
    phase: int
    """From 1."""

    @property
    def path(self) -> Path:
        """Everything of the phase but its curves."""
        return self.run / f"phase{self.phase}"

    @property
    def adapter(self) -> Path:
        """The PEFT folder that the finished phase leaves."""
        return self.path / ADAPTER

    @property
    def best(self) -> Path:
        """The PEFT folder of the lowest validation loss so far."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """Where the phase can go on from."""
        return self.path / "checkpoints"

    @property
    def summary(self) -> Path:
        """Written last: its presence says that the phase is finished."""
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """Its curves."""
        return self.run / LOGS / self.path.name

    def move_aside(self) -> None:
        """Give what the phase left before another name."""
        for folder in (self.path, self.logs):
            if folder.exists():
                print(f"{folder} was moved to {move_aside(folder)}")


def finished_phases(run: Path) -> list[PhaseFolder]:
    """Return the finished phases of a run, in order; those that were moved aside are left out.

    Args:
        run: The run's folder.
    """
    names = (re.fullmatch(r"phase(\d+)", summary.parent.name) for summary in run.glob("phase*/summary.json"))
    return [PhaseFolder(run, phase) for phase in sorted(int(name[1]) for name in names if name)]


def environment(device: torch.device) -> dict[str, str]:
    """Return what a phase runs on: the machine, and the versions that its result may depend on.

    Args:
        device: Where the model is.
    """
    import torch

    versions = {}
    for name in ("mv-lightning", "torch", "lightning", "transformers", "peft", "bitsandbytes", "datasets"):
        with suppress(PackageNotFoundError):  # bitsandbytes is not needed for unquantised models, nor is our own wheel
            versions[name] = version(name)
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads",
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
        **({"cuda": str(torch.version.cuda)} if gpu else {}),
    }


def deciding_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide what a phase ends with, out of all of a command.

    Args:
        options: Dotted option names and their values.
    """
    return {
        name: value
        for name, value in sorted(options.items())
        if name in DECIDING or (name.startswith(("model.", "data.")) and name not in FREE_TO_CHANGE)
    }


def fit_phase(
    trainer: Trainer,
    module: VerdictModule,
    datamodule: VerdictDataModule,
    folder: PhaseFolder,
    settings: Mapping[str, Any],
    vitals: Vitals,
    best: BestAdapter,
    ckpt_path: str | None = None,
) -> None:
    """Train a phase to its end: from the start, or from the checkpoint at which it was interrupted.

    Args:
        trainer: With the callbacks of this package.
        module: The model.
        datamodule: The data.
        folder: Where the phase lives.
        settings: What a resumed phase must not change, see `deciding_settings`.
        vitals: What the phase costs, also a callback of `trainer`.
        best: The best adapter, also a callback of `trainer`.
        ckpt_path: A certain checkpoint; default: the newest whole one of the phase.

    Raises:
        ValueError: The checkpoint is missing, damaged or of another run; or what the phase itself refuses.
    """
    from mv_lightning.training.checkpoint import damage, newest_whole, refuse_changed

    if folder.summary.exists():
        trainer.strategy.teardown()
        print(
            f"{folder.path} is finished ({folder.summary}); nothing to do. --fresh starts it over, --run.dir trains "
            "elsewhere."
        )
        return
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise ValueError(f"--ckpt_path {ckpt_path}: no such file")
    start = Path(ckpt_path) if ckpt_path else newest_whole(folder.checkpoints)
    if start is not None:
        refuse_changed(start, settings)
        if ckpt_path and (wrong := damage(start)):
            raise ValueError(f"--ckpt_path {start} is damaged: {wrong}; name another one")
        print(f"{folder.path} was interrupted: going on from {start}")
        module.resumes = True
    trainer.fit(module, datamodule=datamodule, ckpt_path=None if start is None else str(start))
    _finish(trainer, module, datamodule, folder, vitals, best)


def _finish(
    trainer: Trainer,
    module: VerdictModule,
    datamodule: VerdictDataModule,
    folder: PhaseFolder,
    vitals: Vitals,
    best: BestAdapter,
) -> None:
    """Validate the final weights, leave the adapter with its calibration, and mark the phase as finished."""
    from mv_lightning.training.callbacks import align_steps, peak_memory_gb
    from mv_lightning.training.evaluation import assess, keep_assessment, keep_calibration

    steps, card = trainer.global_step, module.card()
    device = trainer.strategy.root_device  # the module itself was moved off it when the training ended
    train, val = datamodule.encoded["train"], datamodule.encoded["val"]
    validated = module.evaluated_step == steps
    if len(val) and not validated:
        trainer.validate(module, datamodule=datamodule, verbose=False)
    if not trainer.is_global_zero:
        return
    module.save_adapter(folder.adapter, card)
    summary = {
        "phase": datamodule.phase,
        "steps": steps,
        "steps_all_phases": card["steps"],
        "rows": vitals.rows,
        "tokens": vitals.tokens,
        "cut_rows": int((train.cut_N > 0).sum()),
        "minutes": vitals.seconds / 60,
        "peak_memory_gb": peak_memory_gb(device),
        "validation_rows": len(val),
        "best_step": best.step,
        "adapter": str(folder.adapter),
        "environment": environment(device),
    }
    if module.evaluation is not None:
        found = assess(module.evaluation, val, datamodule.kinds["val"])
        keep_assessment(folder.path, "val", found)
        keep_calibration(folder.adapter, module.evaluation, datamodule.train_share)
        values = {"loss": found.loss, "acc": found.overall.values["accuracy"], "auroc": found.overall.values["auroc"]}
        summary |= {f"val_{name}": None if isnan(value) else value for name, value in values.items()}
        align_steps(trainer, module)
        _log(trainer, found, {} if validated else {f"val/{name}": value for name, value in values.items()})
    write_json(folder.summary, summary)
    told = f", validation accuracy {summary['val_acc']:.3f}" if "val_acc" in summary else ""
    print(
        f"{folder.path.name}: {steps} steps, {summary['rows']:,} rows, {summary['minutes']:.1f} min{told}, adapter in "
        f"{summary['adapter']}"
    )


def _log(trainer: Trainer, found: Assessment, values: dict[str, float]) -> None:
    """Put the figures, and `values` that are not logged yet, at the place of the last step."""
    from lightning.pytorch.loggers import TensorBoardLogger

    for logger in trainer.loggers:
        # Lightning counts the steps of its curves from 0.
        logger.log_metrics(values, step=trainer.global_step - 1)
        if isinstance(logger, TensorBoardLogger):
            for name, figure in found.figures.items():
                logger.experiment.add_figure(f"val/{name}", figure, trainer.global_step, close=False)
        logger.save()
