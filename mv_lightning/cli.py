"""The command line: LightningCLI for one phase, and the tasks around it.

A user's mistake ends with one message and exit status 2; set MV_LIGHTNING_TRACEBACK=1 to see where it was raised.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.cli import LightningArgumentParser

COMMANDS = ("fit", "validate", "test", "predict")
USAGE = """usage: python -m mv_lightning COMMAND [--config FILE ...] [--OPTION VALUE ...]

Train a model that says whether a math answer is correct.

  fit       train one phase; goes on where it was interrupted
  validate  accuracy, AUROC and loss on a phase's validation rows
  test      the same on the sub-test, which no phase trains on
  predict   write submission.csv and probabilities.csv
  phases    fit all phases in order, then predict, then a table of the results

  python -m mv_lightning COMMAND --help explains every option of a command."""


@dataclass(frozen=True)
class RunSettings:
    """Where a run lives and how often it looks at itself."""

    dir: str = "checkpoints"
    """Folder of the run; each phase has its own folder in it."""
    eval_every: int = 200
    """Optimizer steps between validations; one more follows the last step."""
    save_every: int = 200
    """Optimizer steps between checkpoints."""
    fresh: bool = False
    """Start the phase over; what it left before is moved aside, not deleted."""
    sample_submission: str | None = None
    """CSV of a contest with the columns ID and is_correct; predict compares its rows and IDs before it starts."""

    def __post_init__(self) -> None:
        if self.eval_every < 1 or self.save_every < 1:
            raise ValueError(
                f"run.eval_every={self.eval_every} and run.save_every={self.save_every} must be at least 1 step"
            )


def main(argv: list[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message on a user's mistake.

    Args:
        argv: The words after the program's name; None for those of this process.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    try:
        if words[0] == "phases":
            from mv_lightning.tasks.phases import run_phases

            run_phases(words[1:], configuration)
        elif words[0] in COMMANDS:
            _run_lightning(argv)
        else:
            raise ValueError(f"no command {words[0]!r}; there are {', '.join(COMMANDS)} and phases")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("MV_LIGHTNING_TRACEBACK") or not _is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def configuration(words: list[str]) -> dict[str, Any]:
    """Return every setting of a command line, checked as the command itself would, without running it.

    Args:
        words: A command and its options.
    """
    import yaml

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            _run_lightning([*words, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
    settings: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return settings


def _is_users(error: Exception) -> bool:
    """Our own checks raise ValueError, and Lightning's MisconfigurationException; the rest is a defect of ours."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, (ValueError, FileNotFoundError, MisconfigurationException))


def _run_lightning(argv: list[str] | None) -> None:
    from jsonargparse import set_parsing_settings
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

    from mv_lightning.model.adapters import WEIGHTS
    from mv_lightning.training.callbacks import ADAPTER, SUMMARY, PhaseLogger, Vitals, peak_memory_gb
    from mv_lightning.training.checkpoint import LAST, AtomicCheckpointIO, ResumeCheckpoint
    from mv_lightning.training.datamodule import VerdictDataModule
    from mv_lightning.training.module import VerdictModule
    from mv_lightning.training.predictions import PredictionWriter

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    # Libraries' words that are of no use to a user of this program. bitsandbytes misses a kernel that
    # model/base.py switches off.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*is not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

    class SaveConfigOnceAccepted(SaveConfigCallback):
        """Keeps the settings of the run before as long as this one may still be refused."""

        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            """Lightning would save here, before the model and the checkpoint are looked at."""

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().setup(trainer, pl_module, "fit")

    class VerifierCLI(LightningCLI):
        """One phase: its folder, its logger, its checkpoints and its summary."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(RunSettings, "run")

        def _parse_ckpt_path(self) -> None:
            """Let explicit settings stand: Lightning would take the whole model section from the checkpoint."""

        def before_instantiate_classes(self) -> None:
            config = self.config[self.subcommand]
            self.run_dir = Path(config.run.dir)
            self.phase_dir = self.run_dir / f"phase{config.data.phase}"
            if self.subcommand != "fit" and config.model.init_from in (None, "previous"):
                config.model.init_from = str(self.phase_dir / ADAPTER)
            elif config.model.init_from == "previous":
                config.model.init_from = str(self.run_dir / f"phase{config.data.phase - 1}" / ADAPTER)

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            config = self.config[self.subcommand]
            trainer = config.trainer
            kwargs["default_root_dir"] = str(self.phase_dir)
            if trainer.logger in (None, True):
                kwargs["logger"] = self.subcommand == "fit" and PhaseLogger(
                    str(self.run_dir), name="tensorboard", version=self.phase_dir.name
                )
            # Counted in optimizer steps and over epochs, so that it does not change with the accumulation.
            kwargs["val_check_interval"] = config.run.eval_every * trainer.accumulate_grad_batches
            kwargs["check_val_every_n_epoch"] = None
            kwargs["plugins"] = [*(trainer.plugins or []), AtomicCheckpointIO()]
            self.vitals = Vitals()
            callbacks = [self.vitals]
            if self.subcommand == "fit":
                callbacks.append(ResumeCheckpoint(self.phase_dir, config.run.save_every))
            if self.subcommand == "predict":
                weights = config.get("ckpt_path") or Path(config.model.init_from) / WEIGHTS
                sample = config.run.sample_submission
                callbacks.append(PredictionWriter(self.run_dir, Path(weights), Path(sample) if sample else None))
            made: Trainer = super().instantiate_trainer(**kwargs)
            made.callbacks.extend(callbacks)
            return made

        def fit(self, **kwargs: Any) -> None:
            if self.config.fit.run.fresh:
                self._move_aside()
            summary = self.phase_dir / SUMMARY
            if summary.exists():
                print(
                    f"{self.phase_dir} is finished ({summary}); nothing to do. --run.fresh true starts it over, "
                    "--run.dir trains elsewhere."
                )
                return
            if kwargs.get("ckpt_path") is None and (self.phase_dir / LAST).exists():
                kwargs["ckpt_path"] = str(self.phase_dir / LAST)
                print(f"{self.phase_dir} was interrupted: going on from {kwargs['ckpt_path']}")
            if kwargs.get("ckpt_path") and not Path(kwargs["ckpt_path"]).is_file():
                raise ValueError(f"--ckpt_path {kwargs['ckpt_path']}: no such file")
            self.trainer.fit(**kwargs)
            if self.trainer.interrupted or not self.trainer.is_global_zero:
                return
            self._finish()

        def _finish(self) -> None:
            """Validate the final weights, leave the adapter, and mark the phase as finished."""
            from mv_lightning.atomic import write_json

            steps = self.trainer.global_step
            card_steps = self.model.card()["steps"]
            self.model.save_adapter(self.phase_dir / ADAPTER)
            metrics = self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)[0]
            for logger in self.trainer.loggers:
                logger.log_metrics(metrics, step=steps)
                logger.save()
            train = self.datamodule.encoded["train"]
            summary = {
                "phase": self.datamodule.phase,
                "steps": steps,
                "steps_all_phases": card_steps,
                "rows": self.vitals.rows,
                "tokens": self.vitals.tokens,
                "cut_rows": int((train.cut_N > 0).sum()),
                "minutes": self.vitals.seconds / 60,
                "peak_memory_gb": peak_memory_gb(self.model.device),
                "validation_rows": len(self.datamodule.encoded["val"]),
                **{name.replace("/", "_"): value for name, value in metrics.items()},
                "adapter": str(self.phase_dir / ADAPTER),
            }
            write_json(self.phase_dir / SUMMARY, summary)
            print(
                f"{self.phase_dir.name}: {steps} steps, {summary['rows']:,} rows, {summary['minutes']:.1f} min, "
                f"validation accuracy {summary['val_acc']:.3f}, adapter in {summary['adapter']}"
            )

        def _move_aside(self) -> None:
            logs = self.run_dir / "tensorboard" / self.phase_dir.name
            stamp = time.strftime("%Y%m%d-%H%M%S")
            for folder in (self.phase_dir, logs):
                if folder.exists():
                    shutil.move(folder, folder.with_name(f"{folder.name}.{stamp}"))
                    print(f"{folder} was moved to {folder.with_name(f'{folder.name}.{stamp}')}")

    VerifierCLI(
        VerdictModule,
        VerdictDataModule,
        args=argv,
        save_config_callback=SaveConfigOnceAccepted,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=3407,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        trainer_defaults={
            "accelerator": "gpu",
            "devices": 1,
            "precision": "bf16-mixed",
            "accumulate_grad_batches": 4,
            "max_epochs": 1,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 1,
            "use_distributed_sampler": False,
            "enable_checkpointing": False,
        },
    )
