"""Arguments of the commands of one phase: their order, and what is refused instead of ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from mv_lightning.training.settings import LINKS

REPLACED_TRAINER_OPTIONS = {
    "val_check_interval": "run.eval_every (optimizer steps between validations)",
    "check_val_every_n_epoch": "run.eval_every (optimizer steps between validations)",
    "default_root_dir": "run.dir",
    "overfit_batches": "data.splits.rows with trainer.max_epochs: a small shard, trained on often",
    "reload_dataloaders_every_n_epochs": "another phase: its rows are the same in all epochs",
}
"""Options of the Trainer that are refused, and what to use instead."""
REFUSED_CALLBACKS: dict[type[Callback], str] = {
    StochasticWeightAveraging: "it copies the model before the adapters are attached, so that it "
    "would average nothing. Use `average` to average the adapters of several phases",
    WeightAveraging: "its checkpoints hold a second copy of the whole base, and a phase cannot "
    "resume from them. Use `average` to average the adapters of several phases",
    GradientAccumulationScheduler: "the rows of an optimizer step are chosen before the training. "
    "Use trainer.accumulate_grad_batches, with another value in another phase",
}
"""Callbacks of Lightning that cannot work here, why, and what to use instead."""


def configs_first(args: list[str]) -> list[str]:
    """Move `--config FILE` before all other options, so that the command line always wins.

    Args:
        args: The command and its options.
    """
    configs: list[str] = []
    others: list[str] = []
    rest = iter(args[1:])
    for arg in rest:
        if arg in ("-c", "--config"):
            configs += [arg, *islice(rest, 1)]
        elif arg.startswith("--config="):
            configs.append(arg)
        else:
            others.append(arg)
    return [args[0], *configs, *others]


def refuse_linked_targets(args: list[str]) -> None:
    """Refuse options of configuration files that a link would overwrite without a word.

    Args:
        args: The command and its options.

    Raises:
        ValueError: A file sets the target of a link.
    """
    for path in _config_files(args):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue  # the parser has a better message
        for source, target in LINKS.items():
            if _contains(content, target):
                raise ValueError(
                    f"{path}: expected {source}, got {target}, which follows it. Set {source} in "
                    "its place"
                )


def _config_files(args: list[str]) -> list[Path]:
    files = []
    for place, arg in enumerate(args):
        if arg in ("-c", "--config") and place + 1 < len(args):
            files.append(Path(args[place + 1]))
        elif arg.startswith("--config="):
            files.append(Path(arg.removeprefix("--config=")))
    return files


def _contains(content: Any, dotted_name: str) -> bool:
    for part in dotted_name.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def refuse_replaced_options(trainer: Namespace) -> None:
    """Refuse options of the Trainer that have no effect here.

    Args:
        trainer: The group `trainer` of the settings.

    Raises:
        ValueError: One of them is set.
    """
    for name, alternative in REPLACED_TRAINER_OPTIONS.items():
        # All of them are None or 0 by default, but for the number of epochs between validations.
        default = 1 if name == "check_val_every_n_epoch" else 0
        value = trainer.get(name)
        if value is not None and value != default:
            raise ValueError(
                f"trainer.{name}={value} is not supported here. Use {alternative} instead"
            )


def refuse_callbacks(callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks that cannot work here.

    Args:
        callbacks: The option `trainer.callbacks`.

    Raises:
        ValueError: One of them is among `REFUSED_CALLBACKS`.
    """
    for callback in callbacks:
        for refused, reason in REFUSED_CALLBACKS.items():
            if isinstance(callback, refused):
                name = type(callback).__name__
                raise ValueError(f"trainer.callbacks: {name} is not supported here: {reason}")


def refuse_strategy(strategy: Strategy) -> None:
    """Refuse strategies that cannot work here.

    Args:
        strategy: Of the trainer.

    Raises:
        ValueError: It is neither one process nor DDP, with a whole or a sharded base, with
            processes that run the command.
    """
    name = type(strategy).__name__
    if isinstance(strategy, DDPStrategy):
        if strategy._start_method == "popen":
            return
        name = f"DDP with the start method {strategy._start_method}"
        reason = (
            "the results of a phase would stay in child processes, and be missing where it is "
            "finished"
        )
    elif isinstance(strategy, SingleDeviceStrategy):
        return
    elif isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
        reason = (
            "it shards the adapters too, and the state of bitsandbytes' 8-bit optimizer cannot be "
            "gathered into a checkpoint. trainer.strategy=sharded_base shards the frozen base only"
        )
    else:
        reason = "checkpoints and metrics were tested in one process and under DDP only"
    raise ValueError(
        f"expected trainer.strategy=ddp, sharded_base or one process, got {name}: {reason}. Set "
        "ddp where the base fits into each GPU, sharded_base (configs/fsdp.yaml) where it does not"
    )
