"""The runs of an experiment: their settings, their folders, and what is done of them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mv_lightning.artifacts.layout import PhaseFolder, checkpoint_step
from mv_lightning.data.splits import SplitPlan
from mv_lightning.experiments.grid import RESERVED, Grid, GridCell
from mv_lightning.experiments.option_files import option_args, shared_args
from mv_lightning.formatting import flatten_settings
from mv_lightning.hashing import sha256_bytes
from mv_lightning.model.location import absolute_name

_IDENTIFYING = (
    "model.base.name",
    "model.init_from",
    "data.source",
    "data.prompt",
    "trainer.callbacks",
)
"""Options that a resumed phase may change; another value makes another run of an experiment."""
_LABEL_LENGTH = 80


@dataclass(frozen=True)
class Run:
    """One cell with one seed: a phase in a folder of its own."""

    cell: GridCell
    seed: int
    args: Sequence[str]
    """The options of `fit`."""
    settings: Mapping[str, Any]
    """All options, nested."""

    @property
    def name(self) -> str:
        """The cell and the seed, for messages."""
        return f"{self.cell.label}, seed={self.seed}"

    @property
    def phase(self) -> PhaseFolder:
        """Where it is stored."""
        return PhaseFolder(Path(self.settings["run"]["dir"]), self.settings["data"]["phase"])

    @property
    def stage(self) -> Literal["test", "val"]:
        """What it is evaluated on: the held-out test set, or validation rows where there is
        none."""
        return "test" if self.plan.test_rows else "val"

    @cached_property
    def plan(self) -> SplitPlan:
        """How its rows are drawn."""
        return SplitPlan(**self.settings["data"]["splits"])

    @property
    def is_trained(self) -> bool:
        """Whether its phase is finished."""
        return self.phase.summary.is_file()

    @property
    def is_done(self) -> bool:
        """Whether it is trained and evaluated."""
        return self.is_trained and self.phase.evaluated_rows(self.stage).is_file()

    @property
    def state(self) -> str:
        """What is done of it, for a table."""
        if self.is_trained:
            return "done" if self.is_done else "trained, not evaluated"
        steps = [checkpoint_step(path) for path in self.phase.checkpoints.glob("step-*.ckpt")]
        return f"interrupted at step {max(steps)}" if steps else "to do"

    @property
    def steps(self) -> int:
        """Optimizer steps that it will train, of one process."""
        trainer = self.settings["trainer"]
        of_epoch = -(-self.plan.train_rows // self.rows_per_step)
        limits = []
        if trainer["max_steps"] >= 0:
            limits.append(trainer["max_steps"])
        if trainer["max_epochs"] is not None and trainer["max_epochs"] >= 0:
            limits.append(trainer["max_epochs"] * of_epoch)
        return min(limits, default=0)

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step."""
        accumulate: int = self.settings["trainer"]["accumulate_grad_batches"]
        return max(1, self.settings["data"]["batch_size"] * accumulate)

    @property
    def work(self) -> int:
        """Its length relative to that of other runs: forward passes of a row. A row that is trained
        on counts as three: its backward pass takes as long as two forward passes."""
        validations = 1 + self.steps // self.settings["run"]["eval_every"]
        evaluated = validations * (self.plan.rows - self.plan.train_rows) + self.plan.test_rows
        return 3 * self.steps * self.rows_per_step + evaluated


def plan_runs(grid: Grid, args: Sequence[str], folder: Path) -> list[Run]:
    """Return the runs of a grid, all cells with the first seed first.

    A run's folder is named by what it sets beyond the defaults. So a changed grid, option or
    configuration file leads to other folders, and what is in the old ones stays valid.

    Args:
        grid: The cells.
        args: Options of `fit` that apply to all cells: they override the grid's base and options.
        folder: Of the experiment.

    Raises:
        ValueError: An option is wrong, or is one that the grid or the experiment sets.
    """
    from mv_lightning.training.cli import parse_all

    _refuse_set_options(grid, args)
    common = shared_args(grid.base, grid.options, args)
    lines = [[*common, *option_args(cell.options)] for cell in grid.cells]
    # Every combination is checked before the first hour is spent.
    defaults, *parsed = parse_all([["fit"], *(["fit", *line] for line in lines)])
    runs = []
    for seed in grid.seeds:
        for cell, line, settings in zip(grid.cells, lines, parsed, strict=True):
            runs.append(_run(cell, seed, line, settings, defaults, folder))
    return runs


def _run(
    cell: GridCell,
    seed: int,
    line: Sequence[str],
    parsed: Mapping[str, Any],
    defaults: Mapping[str, Any],
    folder: Path,
) -> Run:
    settings: dict[str, Any] = copy.deepcopy(dict(parsed))
    settings["seed_everything"] = settings["data"]["splits"]["seed"] = seed
    label = re.sub(r"[^\w.=+-]+", "_", f"{cell.label}, seed={seed}")[:_LABEL_LENGTH]
    run_dir = folder / f"{label}-{_digest(settings, defaults)}"
    settings["run"]["dir"] = str(run_dir)
    _check_one_process(settings["trainer"])
    own = {"seed_everything": seed, "data.splits.seed": seed, "run.dir": str(run_dir)}
    run = Run(cell, seed, [*line, *option_args(own)], settings)
    if run.stage == "val" and not run.plan.val_fraction:
        raise ValueError(
            "expected rows to evaluate the runs on, got data.splits.test_rows=0 and "
            "data.splits.val_fraction=0. Set one of them above 0"
        )
    return run


def _check_one_process(trainer: Mapping[str, Any]) -> None:
    """Processes that Lightning starts would each run the whole experiment."""
    devices = trainer["devices"]
    one = devices in (1, "1", "auto") or (isinstance(devices, list) and len(devices) == 1)
    if not one or trainer["num_nodes"] != 1:
        raise ValueError(
            "expected an experiment to run in one process, got trainer.devices="
            f"{devices} and trainer.num_nodes={trainer['num_nodes']}. Set both to 1; for several "
            "GPUs divide the grid, with a --folder and CUDA_VISIBLE_DEVICES for each part"
        )


def _digest(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Hash the settings that a result depends on, as far as they differ from the defaults: a new
    option of a later release changes no name."""
    from mv_lightning.training.settings import resume_locked_settings

    values, default_values = flatten_settings(settings), flatten_settings(defaults)
    relevant = resume_locked_settings(values)
    relevant |= {name: values[name] for name in _IDENTIFYING}
    relevant["model.base.name"] = absolute_name(values["model.base.name"])
    changed = {name: value for name, value in relevant.items() if value != default_values.get(name)}
    return sha256_bytes(json.dumps(changed, sort_keys=True, default=str).encode())[:8]


def _refuse_set_options(grid: Grid, args: Sequence[str]) -> None:
    for arg in args:
        name = arg.partition("=")[0].removeprefix("--")
        if name in RESERVED:
            raise ValueError(
                f"expected options of fit that all runs share, got {arg}, which an experiment sets "
                f"for each of its runs. Use {RESERVED[name]} instead"
            )
        if any(name in cell.options for cell in grid.cells):
            raise ValueError(
                f"expected options that the cells of the grid do not set, got {arg}. Remove it, or "
                "change the grid"
            )
