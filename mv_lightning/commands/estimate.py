"""`estimate`: what a phase would need of a GPU and of the disk, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings, load_config
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.estimate import MARGIN, Estimate, estimate_phase
from mv_lightning.reporting.blocks import Table


@dataclass(frozen=True)
class EstimateOptions:
    """Options of the command."""

    tokens: int | None = None
    """Tokens of the largest packed micro-batch; default: data.batch_size rows of
    data.max_length."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(
                "--tokens expects the number of packed tokens of a micro-batch, 1 or more, got "
                f"{self.tokens}"
            )


def run(args: list[str]) -> None:
    """Print the parts of the peak memory, the GPUs that it fits on, and the size of the files.

    Args:
        args: The command line after `estimate`.

    Raises:
        ValueError: The options are wrong, or the base model's config cannot be read.
    """
    from mv_lightning.training.cli import parse

    parser = command_parser(
        "estimate",
        "Compute the peak memory of fit and the size of its checkpoints; only the base model's "
        "config is read.",
        "All other options are those of fit, such as --config configs/phase2.yaml --config "
        "configs/t4.yaml",
    )
    add_options(parser, "estimate", EstimateOptions)
    own_args, fit_args = split_args(parser, args)
    options = build(EstimateOptions, parse_options(parser, own_args).estimate)
    settings = parse(["fit", *fit_args])
    base = BaseSettings(**settings["model"]["base"])
    lora = LoraSettings(**settings["model"]["lora"])
    optim = OptimSettings(**settings["model"]["optim"])
    rows = settings["data"]["batch_size"]
    tokens = options.tokens or rows * settings["data"]["max_length"]
    if min(rows, tokens) < 1:
        raise ValueError(
            "expected data.batch_size and data.max_length to be at least 1, got "
            f"{rows} and {settings['data']['max_length']}"
        )
    estimate = estimate_phase(
        load_config(base),
        base,
        lora,
        optim,
        tokens,
        rows,
        distributed=_is_distributed(settings["trainer"]),
        head=settings["model"]["head"],
    )
    print(
        f"{base.name}, quantization {base.quantization}, LoRA r {lora.r}: "
        f"{estimate.trained:,} trained parameters"
    )
    print(f"micro-batch of {rows} rows, {tokens:,} packed tokens\n")
    print(f"{_memory_table(estimate).markdown()}\n")
    print(_gpu_table(estimate).markdown())
    print(
        f"\nThe last column is the value that recomputes least and fits, with {MARGIN:.0%} of the "
        "GPU's memory left free.\nA number stores the activations of a micro-batch of that many "
        "packed tokens; a longer one recomputes the rest."
    )
    print(
        f"\nA checkpoint takes {estimate.checkpoint_bytes / 1e9:.2f} GB on disk, and "
        f"{settings['run']['keep']} are kept. Each of the two adapter folders takes "
        f"{estimate.adapter_bytes / 1e9:.2f} GB."
    )


def _is_distributed(trainer: Mapping[str, Any]) -> bool:
    """Whether several processes train; Lightning counts `auto` and -1 on the machine itself."""
    devices, strategy = trainer["devices"], str(trainer["strategy"]).lower()
    several = len(devices) > 1 if isinstance(devices, list) else str(devices) not in ("1", "auto")
    return several or trainer["num_nodes"] > 1 or "ddp" in strategy


def _memory_table(estimate: Estimate) -> Table:
    rows = [(item.name, f"{item.bytes / 1e9:.2f}", item.formula) for item in estimate.items]
    rows.append(("peak", f"{estimate.peak_bytes / 1e9:.2f}", ""))
    return Table(("in the GPU's memory", "GB", "computed as"), rows)


def _gpu_table(estimate: Estimate) -> Table:
    rows = []
    for gpu in estimate.gpus:
        least = gpu.least_checkpointing
        setting = "too large" if least is None else str(least).lower()
        rows.append((gpu.gpu, f"{gpu.memory_gb:.1f}", "yes" if gpu.fits else "no", setting))
    return Table(("GPU", "GB", "fits", "model.base.gradient_checkpointing"), rows)
