"""The command line: LightningCLI for one phase, and the tasks around it.

A user's mistake ends with one message and exit status 2; set MV_LIGHTNING_TRACEBACK=1 to see where it was raised.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.cli import LightningArgumentParser

COMMANDS = ("fit", "validate", "test", "predict")
TASKS = (
    "phases",
    "analyze",
    "ensemble",
    "best-of-n",
    "export",
    "report",
    "estimate",
    "verify-resume",
)
"""Verbs that have a file in `tasks/`, with a function `run_VERB` in it."""
READ_CONFIGURATIONS = ("phases", "estimate", "verify-resume")
"""Tasks whose options are those of a command."""
ALIASES = {"--fresh": ("--run.fresh", "true")}
USAGE = """usage: python -m mv_lightning COMMAND [--config FILE ...] [--OPTION VALUE ...]

Train a model that says whether a math answer is correct.

  phases         fit all phases in order, then predict, then a table of the results
  fit            train one phase; goes on where it was interrupted
  validate       metrics on a phase's validation rows
  test           the same on the sub-test, which no phase trains on
  predict        write submission.csv and probabilities.csv
  analyze        lengths, balance, leaks and trivial baselines of a source
  ensemble       one prediction out of several, and what it gained
  best-of-n      solve rate when the verifier picks among several solutions
  export         a phase's adapter, or the merged model, for use without this package
  report         one page about a run: settings, curves, metrics, worst mistakes
  estimate       memory that a phase would take, term by term, and the cards it fits on
  verify-resume  train a few steps twice, once killed and resumed, and compare bit for bit

  python -m mv_lightning COMMAND --help explains every option of a command."""


def main(argv: list[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message on a user's mistake.

    Args:
        argv: The words after the program's name; None for those of this process.
    """
    words = [
        part
        for word in (sys.argv[1:] if argv is None else argv)
        for part in ALIASES.get(word, (word,))
    ]
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    try:
        if words[0] in TASKS:
            name = words[0].replace("-", "_")
            run = getattr(importlib.import_module(f"mv_lightning.commands.{name}"), f"run_{name}")
            run(words[1:], *([configuration] if words[0] in READ_CONFIGURATIONS else []))
        elif words[0] in COMMANDS:
            _run_lightning(words)
        else:
            raise ValueError(f"no command {words[0]!r}; there are {', '.join((*COMMANDS, *TASKS))}")
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
    """Our own checks raise ValueError, Lightning's MisconfigurationException, and a full or closed disk OSError; the
    rest is a defect of ours."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, (ValueError, OSError, MisconfigurationException))


def _run_lightning(words: list[str]) -> None:
    from jsonargparse import set_parsing_settings
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

    from mv_lightning.artifacts.calibrations import load_calibration
    from mv_lightning.artifacts.evaluations import save_report
    from mv_lightning.artifacts.layout import TENSORBOARD_FOLDER, PhaseFolder, RunFolder
    from mv_lightning.metrics.calibration import Calibration
    from mv_lightning.metrics.evaluation import evaluate
    from mv_lightning.model.adapter_files import WEIGHTS
    from mv_lightning.model.precision import PRECISION
    from mv_lightning.schema import DEFAULT_SEED
    from mv_lightning.training.callbacks import (
        BestAdapter,
        MemoryProbe,
        PhaseLogger,
        PhaseProgress,
        ThroughputMonitor,
    )
    from mv_lightning.training.checkpoint import AtomicCheckpointIO, ResumeCheckpoint
    from mv_lightning.training.datamodule import VerdictDataModule
    from mv_lightning.training.module import VerdictModule
    from mv_lightning.training.phase import fit_phase
    from mv_lightning.training.prediction_writer import PredictionWriter
    from mv_lightning.training.settings import RunSettings, resume_locked_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    # Libraries' words that are of no use to a user of this program. bitsandbytes misses a kernel that
    # model/base.py switches off.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*is not supported by the model summary.*")
    warnings.filterwarnings(
        "ignore", message=".*sync_dist=True.*"
    )  # the module gathers rows itself
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

    class SaveConfigOnceAccepted(SaveConfigCallback):
        """Keeps the settings of the run before as long as this one may still be refused."""

        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            """Lightning would save here, before the model and the checkpoint are looked at."""

        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            path = Path(trainer.default_root_dir) / "config.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)

    class VerifierCLI(LightningCLI):
        """One phase: its folder, its logger, its checkpoints and its summary."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(RunSettings, "run")

        def _parse_ckpt_path(self) -> None:
            """Let explicit settings stand: Lightning would take the whole model section from the checkpoint."""

        def before_instantiate_classes(self) -> None:
            config = self.config[self.subcommand]
            self.settings = resume_locked_settings(vars(config.clone().as_flat()))
            self.folder = PhaseFolder(Path(config.run.dir), config.data.phase)
            if self.subcommand != "fit" and config.model.init_from in (None, "previous"):
                config.model.init_from = str(self.folder.adapter)
            elif config.model.init_from == "previous":
                config.model.init_from = str(
                    PhaseFolder(self.folder.run, config.data.phase - 1).adapter
                )

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            config = self.config[self.subcommand]
            trainer, run = config.trainer, config.run
            kwargs["default_root_dir"] = str(self.folder.path)
            if trainer.logger in (None, True):
                kwargs["logger"] = self.subcommand == "fit" and PhaseLogger(
                    str(self.folder.run), name=TENSORBOARD_FOLDER, version=self.folder.path.name
                )
            # Counted in optimizer steps and over epochs, so that it does not change with the accumulation.
            kwargs["val_check_interval"] = run.eval_every * trainer.accumulate_grad_batches
            kwargs["check_val_every_n_epoch"] = None
            if not config.data.splits.val_fraction:
                kwargs["limit_val_batches"] = 0
            kwargs["plugins"] = [*(trainer.plugins or []), AtomicCheckpointIO()]
            self.vitals, self.best = ThroughputMonitor(), BestAdapter(self.folder.best)
            callbacks = [self.vitals]
            if trainer.enable_progress_bar is not False:
                # Without a terminal every refresh is a line of its own.
                callbacks.append(PhaseProgress(refresh_rate=1 if sys.stdout.isatty() else 20))
            if self.subcommand == "fit":
                callbacks += [
                    MemoryProbe(),
                    self.best,
                    ResumeCheckpoint(
                        self.folder.checkpoints, run.save_every, run.keep, self.settings
                    ),
                ]
            if self.subcommand == "predict":
                adapter = Path(config.model.init_from)
                generated = config.model.predict_mode == "generate"
                if generated and run.true_share is not None:
                    raise ValueError(
                        f"run.true_share={run.true_share} shifts log-odds, and a generated text tells none; leave it "
                        "out, or set model.predict_mode=verdict"
                    )
                if run.true_share is not None and not run.calibrate:
                    raise ValueError(
                        f"run.true_share={run.true_share} shifts calibrated log-odds, and run.calibrate=false asks for "
                        "what the model says; leave one of the two out"
                    )
                calibrated = run.calibrate and not generated
                calibration = (
                    load_calibration(adapter, run.true_share) if calibrated else Calibration()
                )
                sample = Path(run.sample_submission) if run.sample_submission else None
                weights = Path(config.get("ckpt_path") or adapter / WEIGHTS)
                callbacks.append(
                    PredictionWriter(RunFolder(self.folder.run), weights, calibration, sample)
                )
            kwargs["callbacks"] = [
                *(self.config_init[self.subcommand].trainer.callbacks or []),
                *callbacks,
            ]
            made: Trainer = super().instantiate_trainer(**kwargs)
            return made

        def fit(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
            """In the place of `Trainer.fit`: LightningCLI looks for a method of the command's name."""
            if self.config.fit.run.fresh:
                self.folder.rename_existing()
            fit_phase(
                self.trainer,
                self.model,
                self.datamodule,
                self.folder,
                self.settings,
                self.vitals,
                self.best,
                ckpt_path,
            )

        def validate(self, **kwargs: Any) -> None:
            self.trainer.validate(**{**kwargs, "verbose": False})
            self._assess("val")

        def test(self, **kwargs: Any) -> None:
            self.trainer.test(**{**kwargs, "verbose": False})
            self._assess("test")

        def _assess(self, stage: str) -> None:
            if self.trainer.is_global_zero:
                found = evaluate(
                    self.model.evaluation,
                    self.datamodule.encoded[stage],
                    self.datamodule.kinds[stage],
                )
                save_report(self.folder, stage, found)
                print(
                    f"{found.table()}\nin {self.folder.path}: {self.folder.metrics.name}, {stage}.csv, {self.folder.plots.name}"
                )

    VerifierCLI(
        VerdictModule,
        VerdictDataModule,
        args=words,
        save_config_callback=SaveConfigOnceAccepted,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=DEFAULT_SEED,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        trainer_defaults={
            "accelerator": "gpu",
            "devices": 1,
            "precision": PRECISION,
            "accumulate_grad_batches": 4,
            "max_epochs": 1,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 1,
            "use_distributed_sampler": False,
            "enable_checkpointing": False,
        },
    )
