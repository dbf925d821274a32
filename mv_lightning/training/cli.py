"""LightningCLI for one phase: `fit`, `validate`, `test` and `predict`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import DDPStrategy, Strategy

from mv_lightning.artifacts.adapter_location import adapter_folder
from mv_lightning.artifacts.calibrations import load_calibration, read_calibration
from mv_lightning.artifacts.layout import PhaseFolder, RunFolder
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model.adapter_files import METADATA_FILE, WEIGHTS, read_metadata
from mv_lightning.model.precision import default_precision
from mv_lightning.schema import DEFAULT_SEED
from mv_lightning.training.arguments import (
    configs_first,
    refuse_callbacks,
    refuse_linked_targets,
    refuse_replaced_options,
    refuse_strategy,
)
from mv_lightning.training.checkpoint_files import AtomicCheckpointIO
from mv_lightning.training.console import silence_libraries
from mv_lightning.training.datamodule import VerdictDataModule
from mv_lightning.training.model_summary import ModelSummary
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.phase import Phase
from mv_lightning.training.prediction_writer import PredictionWriter
from mv_lightning.training.process_watch import ProcessWatch
from mv_lightning.training.progress import progress_callback
from mv_lightning.training.settings import (
    LINKS,
    PredictSettings,
    RunSettings,
    resume_locked_settings,
)
from mv_lightning.training.sharing import SharedResources
from mv_lightning.training.trackers import continue_runs, phase_logger, store_run_ids

ADAPTER_DEFAULTS = ("data.prompt", "data.max_length")
"""Options that default, outside `fit`, to those that the adapter was trained with."""
TRAINER_DEFAULTS = {
    "accelerator": "gpu",
    "devices": 1,
    "precision": None,
    "accumulate_grad_batches": 4,
    "max_epochs": 1,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 1,
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
}
PREVIOUS, NONE = "previous", "none"
"""`model.init_from`: the adapter of the phase before, or no adapter."""


def run(args: list[str], shared: SharedResources | None = None) -> None:
    """Run a command of one phase.

    Args:
        args: The command (`fit`, `validate`, `test` or `predict`) and its options.
        shared: What it shares with the commands that ran before it in this process.

    Raises:
        ValueError: An option, a file or the data cannot be used.
    """
    silence_libraries()
    cli = VerdictCLI(args, shared)
    if shared is not None:
        shared.take_back(cli.model)


def parse(args: list[str]) -> dict[str, Any]:
    """Return the checked settings of a command without running it.

    Args:
        args: As for `run`.

    Returns:
        All options, nested as in a configuration file.

    Raises:
        ValueError: An option cannot be used.
    """
    return parse_all([args])[0]


def parse_all(command_lines: Sequence[list[str]]) -> list[dict[str, Any]]:
    """Return the checked settings of several uses of one command.

    The parser is built once, which takes three times as long as it takes to parse.

    Args:
        command_lines: At least one; each as for `run`, all with the same command.

    Returns:
        The settings of each, see `parse`.

    Raises:
        ValueError: An option cannot be used.
    """
    silence_libraries()
    first, *others = command_lines
    cli = SettingsParser(first)
    settings = [cli.settings()]
    for args in others:
        cli.parse_arguments(cli.parser, configs_first(args))
        settings.append(cli.settings())
    return settings


class PhaseArgumentParser(LightningArgumentParser):
    """Lightning's parser without two of its conveniences, which collide with options of ours."""

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the options of a class whose values are never read from the file that they name.

        The content of `data.source: rows.csv` would be taken for the source, as data.source may be
        a list too.
        """
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the options of a command without a group of their own."""
        return super().add_method_arguments(*args, **{**kwargs, "as_group": False})


class SaveRunConfig(SaveConfigCallback):
    """Writes the configuration, the manifest of the splits and the ids of the trackers' runs once
    the run is accepted.

    Lightning would write before the model and the checkpoint are checked, over the files of an
    earlier run.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files."""
        if not trainer.is_global_zero:
            return
        folder: PhaseFolder = trainer.datamodule.folder
        folder.path.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder.config, skip_none=False, overwrite=True)
        trainer.datamodule.write_manifest()
        store_run_ids(trainer.loggers, folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files of a phase of no steps, whose training Lightning skips."""
        if trainer.global_step == 0:
            self.on_train_start(trainer, pl_module)


class VerdictCLI(LightningCLI):
    """The command line of one phase."""

    def __init__(self, args: list[str], shared: SharedResources | None = None) -> None:
        """Parse the options, build model, data and trainer, and run the command.

        Args:
            args: The command and its options.
            shared: See `run`.
        """
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        self._command = args[0]
        self._shared = shared
        super().__init__(
            VerdictModule,
            VerdictDataModule,
            args=configs_first(args),
            parser_class=PhaseArgumentParser,
            save_config_callback=SaveRunConfig if self._command == "fit" else None,
            seed_everything_default=DEFAULT_SEED,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults=TRAINER_DEFAULTS,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return this command only: building the parsers of the others takes a second."""
        every = super().subcommands()
        return {self._command: every[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups `run` and `predict`, and link the options that two classes need."""
        parser.add_class_arguments(RunSettings, "run")
        parser.add_class_arguments(PredictSettings, "predict")
        for source, target in LINKS.items():
            parser.link_arguments(source, target)
        if self._command != "fit":
            parser.set_defaults(dict.fromkeys(ADAPTER_DEFAULTS))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, refuse what would be ignored, and make paths definite."""
        refuse_linked_targets(args)
        super().parse_arguments(parser, args)
        config: Namespace = self.config[self._command]
        refuse_replaced_options(config.trainer)
        changes = Namespace()
        run_folder = RunFolder(_absolute(config.run.dir))
        if config.model.init_from == NONE and self._command != "fit":
            run_folder = run_folder.untrained
            self._add_signature_defaults(config, changes)
        changes["run.dir"] = str(run_folder.path)
        if config.get("ckpt_path"):
            changes["ckpt_path"] = str(_absolute(config.ckpt_path))
        self._folder = run_folder.phase(config.data.phase)
        if self._command == "fit" and not config.run.fresh:
            continue_runs(config.trainer.logger, self._folder)
        changes["model.init_from"] = self._initial_adapter(config.model.init_from)
        self._add_adapter_defaults(config, changes)
        if config.trainer.precision is None:
            changes["trainer.precision"] = default_precision(_device(config.trainer.accelerator))
        # Parsed again, so that links carry the changes too.
        self.config: Namespace = parser.parse_object(
            Namespace({self._command: changes}), self.config
        )

    def _initial_adapter(self, init_from: str | None) -> str | None:
        if init_from == NONE:
            return None
        if init_from == PREVIOUS:
            return str(RunFolder(self._folder.run).phase(self._folder.phase - 1).adapter)
        if init_from is not None:
            return str(adapter_folder(init_from))
        return None if self._command == "fit" else str(self._folder.adapter)

    def _add_signature_defaults(self, config: Namespace, changes: Namespace) -> None:
        """Set the options that are not given to their defaults in training."""
        signature = inspect.signature(VerdictDataModule)
        for name in ADAPTER_DEFAULTS:
            if config.get(name) is None:
                changes[name] = signature.parameters[name.removeprefix("data.")].default

    def _add_adapter_defaults(self, config: Namespace, changes: Namespace) -> None:
        """Set the options that are not given as the adapter was trained with them."""
        missing = [name for name in ADAPTER_DEFAULTS if config.get(name) is None]
        init_from = changes["model.init_from"]
        if not missing or init_from is None:
            return
        metadata = read_metadata(Path(init_from))
        if "data.prompt" in missing:
            changes["data.prompt"] = str(Path(init_from) / METADATA_FILE)
        if "data.max_length" in missing:
            changes["data.max_length"] = metadata["max_length"]

    def _parse_ckpt_path(self) -> None:
        """Keep explicit settings: Lightning would take the whole model section from the
        checkpoint."""

    def instantiate_classes(self) -> None:
        """Build model, data and trainer, and lend them what is shared."""
        super().instantiate_classes()
        if self._shared is not None:
            self._shared.lend(self.model, self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around the phase."""
        config, settings = self.config[self._command], self.config_init[self._command]
        trainer_config, run_settings = config.trainer, settings.run
        init_from = config.model.init_from
        callbacks = _as_list(settings.trainer.callbacks)
        refuse_callbacks(callbacks)
        self.phase = Phase(
            self._folder,
            run_settings,
            resume_locked_settings(vars(config.clone().as_flat())),
            Path(init_from) if init_from else None,
            dev_run=bool(trainer_config.fast_dev_run),
        )
        self.phase.open(self._command, config.get("ckpt_path"))
        callbacks += [*self._interface_callbacks(callbacks), ProcessWatch()]
        callbacks += self.phase.callbacks(self._command, trainer_config.max_time)
        if self._command == "predict" and not trainer_config.fast_dev_run:
            callbacks.append(self._prediction_writer(settings.predict))
        if self._command != "fit" or trainer_config.fast_dev_run:
            kwargs["logger"] = False  # there are no curves, and a CSVLogger would delete its file
        elif trainer_config.logger in (None, True):
            kwargs["logger"] = phase_logger(self._folder)
        if any(isinstance(callback, Checkpoint) for callback in callbacks):
            kwargs["enable_checkpointing"] = True
        # Counted in optimizer steps and over epochs, so that it does not depend on accumulation.
        accumulate = trainer_config.accumulate_grad_batches
        if accumulate < 1:
            raise ValueError(
                f"expected trainer.accumulate_grad_batches to be at least 1, got {accumulate}"
            )
        kwargs["val_check_interval"] = run_settings.eval_every * accumulate
        if not config.data.splits.val_fraction:
            kwargs["limit_val_batches"] = 0
        try:
            trainer: Trainer = super().instantiate_trainer(
                callbacks=callbacks,
                plugins=[*_as_list(settings.trainer.plugins), AtomicCheckpointIO()],
                default_root_dir=str(self._folder.path),
                check_val_every_n_epoch=None,
                max_time=None,  # ResumeCheckpoint stops at the boundary of an optimizer step
                enable_model_summary=False,  # replaced by ModelSummary
                **kwargs,
            )
        except (TypeError, ImportError) as error:  # a wrong number of devices, a missing library
            raise ValueError(f"trainer.*: Lightning's Trainer cannot be built: {error}") from error
        refuse_strategy(trainer.strategy)
        average_gradients_in_place(trainer.strategy)
        return trainer

    def fit(self, **kwargs: Any) -> None:
        """Train the phase; LightningCLI calls the method of the command's name."""
        with self._interruptible():
            self.phase.fit(self.trainer, self.model, self.datamodule)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate the phase's validation rows."""
        with self._interruptible():
            self.trainer.validate(**{**kwargs, "verbose": False})
            self._report("val")

    def test(self, **kwargs: Any) -> None:
        """Evaluate the held-out test rows."""
        with self._interruptible():
            self.trainer.test(**{**kwargs, "verbose": False})
            self._report("test")

    def predict(self, **kwargs: Any) -> None:
        """Predict, and write the CSV files."""
        with self._interruptible():
            self.trainer.predict(**{**kwargs, "return_predictions": False})

    def _report(self, stage: str) -> None:
        if self.trainer.is_global_zero:
            report = self.phase.report(self.datamodule, stage)
            print(f"{report.table()}\nin {self._folder.metrics} and {self._folder.plots}")

    def _interface_callbacks(self, given: list[Callback]) -> list[Callback]:
        trainer = self.config[self._command].trainer
        callbacks: list[Callback] = []
        has_bar = any(isinstance(callback, ProgressBar) for callback in given)
        if trainer.enable_progress_bar is not False and not has_bar:
            callbacks.append(progress_callback())
        if trainer.enable_model_summary is not False:
            callbacks.append(ModelSummary())
        return callbacks

    def _prediction_writer(self, settings: PredictSettings) -> PredictionWriter:
        config = self.config[self._command]
        adapter = config.model.init_from
        calibration, stored = Calibration(), None
        if adapter and settings.mode == "verdict":
            stored = read_calibration(Path(adapter))
            if settings.calibrate:
                calibration = load_calibration(Path(adapter), settings.true_share)
        weights = Path(config.ckpt_path) if config.get("ckpt_path") else None
        if weights is None and adapter:
            weights = Path(adapter) / WEIGHTS
        run_folder = RunFolder(self._folder.run)
        return PredictionWriter(run_folder, weights, calibration, stored, settings)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Exit with status 130 after Ctrl-C, where Lightning exits with 1, and say how to
        continue."""
        try:
            yield
        except SystemExit as end:
            if end.code == 1 and self.trainer.interrupted:
                print("interrupted; the same command resumes from what is stored", file=sys.stderr)
                raise SystemExit(130) from end
            raise
        finally:
            self.phase.close()


class SettingsParser(VerdictCLI):
    """Parses and checks the options, and stops there."""

    def settings(self) -> dict[str, Any]:
        """Return all options, nested as in a configuration file."""
        config = self.config[self.subcommand].clone()
        for name in ("config", *LINKS.values()):
            config.pop(name, None)
        settings: dict[str, Any] = config.as_dict()
        return settings

    def _add_adapter_defaults(self, config: Namespace, changes: Namespace) -> None:
        """Leave them open: the adapter may not be trained yet."""

    def _set_seed(self) -> None:
        """Draw nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def average_gradients_in_place(strategy: Strategy) -> None:
    """Make the gradients views of DDP's buckets, instead of copies of them, unless it is set.

    Args:
        strategy: Of the trainer; changed in place, before it wraps the model.
    """
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _device(accelerator: str) -> torch.device:
    """The device of the name of an accelerator of Lightning."""
    is_gpu = accelerator in ("gpu", "cuda")
    if accelerator == "auto":
        is_gpu = torch.cuda.is_available()
    return torch.device("cuda" if is_gpu else "cpu")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
