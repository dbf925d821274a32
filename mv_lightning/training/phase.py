"""One phase of a run: where it lives, how it starts or goes on, and what it leaves when it is finished."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.versioning import write_versioned_json

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import Trainer

    from mv_lightning.metrics.evaluation import EvalReport
    from mv_lightning.training.callbacks import BestAdapter, ThroughputMonitor
    from mv_lightning.training.datamodule import VerdictDataModule
    from mv_lightning.training.module import VerdictModule


def environment(device: torch.device) -> dict[str, str]:
    """Return what a phase runs on: the machine, and the versions that its result may depend on.

    Args:
        device: Where the model is.
    """
    import torch

    versions = {}
    for name in (
        "mv-lightning",
        "torch",
        "lightning",
        "transformers",
        "peft",
        "bitsandbytes",
        "datasets",
    ):
        with suppress(
            PackageNotFoundError
        ):  # bitsandbytes is not needed for unquantised models, nor is our own wheel
            versions[name] = version(name)
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device)
        if gpu
        else f"CPU, {torch.get_num_threads()} threads",
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
        **({"cuda": str(torch.version.cuda)} if gpu else {}),
    }


def fit_phase(
    trainer: Trainer,
    module: VerdictModule,
    datamodule: VerdictDataModule,
    folder: PhaseFolder,
    settings: Mapping[str, Any],
    vitals: ThroughputMonitor,
    best: BestAdapter,
    ckpt_path: str | None = None,
) -> None:
    """Train a phase to its end: from the start, or from the checkpoint at which it was interrupted.

    Args:
        trainer: With the callbacks of this package.
        module: The model.
        datamodule: The data.
        folder: Where the phase lives.
        settings: What a resumed phase must not change, see `resume_locked_settings`.
        vitals: What the phase costs, also a callback of `trainer`.
        best: The best adapter, also a callback of `trainer`.
        ckpt_path: A certain checkpoint; default: the newest whole one of the phase.

    Raises:
        ValueError: The checkpoint is missing, damaged or of another run; or what the phase itself refuses.
    """
    from mv_lightning.training.checkpoint import check_settings, find_corruption, latest_valid

    if folder.summary.exists():
        trainer.strategy.teardown()
        print(
            f"{folder.path} is finished ({folder.summary}); nothing to do. --fresh starts it over, --run.dir trains "
            "elsewhere."
        )
        return
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise ValueError(f"--ckpt_path {ckpt_path}: no such file")
    start = Path(ckpt_path) if ckpt_path else latest_valid(folder.checkpoints)
    if start is not None:
        check_settings(start, settings)
        if ckpt_path and (wrong := find_corruption(start)):
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
    vitals: ThroughputMonitor,
    best: BestAdapter,
) -> None:
    """Validate the final weights, leave the adapter with its calibration, and mark the phase as finished."""
    from mv_lightning.artifacts.calibrations import save_calibration
    from mv_lightning.artifacts.evaluations import save_report
    from mv_lightning.metrics.evaluation import evaluate
    from mv_lightning.training.callbacks import align_steps, peak_memory_gb

    steps, card = trainer.global_step, module.card()
    device = (
        trainer.strategy.root_device
    )  # the module itself was moved off it when the training ended
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
        "truncated_rows": int((train.truncated_N > 0).sum()),
        "minutes": vitals.seconds / 60,
        "peak_memory_gb": peak_memory_gb(device),
        "validation_rows": len(val),
        "best_step": best.step,
        "adapter": str(folder.adapter),
        "environment": environment(device),
    }
    if module.evaluation is not None:
        found = evaluate(module.evaluation, val, datamodule.kinds["val"])
        save_report(folder, "val", found)
        save_calibration(folder.adapter, module.evaluation, datamodule.train_share)
        values = {
            "loss": found.loss,
            "acc": found.overall.values["accuracy"],
            "auroc": found.overall.values["auroc"],
        }
        summary |= {
            f"val_{name}": None if isnan(value) else value for name, value in values.items()
        }
        align_steps(trainer, module)
        _log(
            trainer,
            found,
            {} if validated else {f"val/{name}": value for name, value in values.items()},
        )
    write_versioned_json(folder.summary, summary)
    told = f", validation accuracy {summary['val_acc']:.3f}" if "val_acc" in summary else ""
    print(
        f"{folder.path.name}: {steps} steps, {summary['rows']:,} rows, {summary['minutes']:.1f} min{told}, adapter in "
        f"{summary['adapter']}"
    )


def _log(trainer: Trainer, found: EvalReport, values: dict[str, float]) -> None:
    """Put the figures, and `values` that are not logged yet, at the place of the last step."""
    from lightning.pytorch.loggers import TensorBoardLogger

    for logger in trainer.loggers:
        # Lightning counts the steps of its curves from 0.
        logger.log_metrics(values, step=trainer.global_step - 1)
        if isinstance(logger, TensorBoardLogger):
            for name, figure in found.figures.items():
                logger.experiment.add_figure(
                    f"val/{name}", figure, trainer.global_step, close=False
                )
        logger.save()
