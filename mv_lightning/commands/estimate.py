"""`estimate`: what a phase would take of a GPU and of the disk, before anything is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings, load_config
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.estimate import MARGIN, estimate_phase
from mv_lightning.reporting.blocks import Table


def run_estimate(words: list[str], configuration: Callable[[list[str]], dict[str, Any]]) -> None:
    """Print the terms of the peak, what fits on which card, and the size of the files.

    Args:
        words: The command line after `estimate`.
        configuration: Reads a command line as the command itself would, without running it.

    Raises:
        ValueError: The options are wrong, or the base model's config cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning estimate",
        description="Compute the peak memory of fit and the size of its checkpoints; only the base's config is read.",
        epilog="Every other option is handed to fit: --config configs/phase2.yaml --config configs/t4.yaml, ...",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        help="of the largest packed micro-batch; default: all rows at their most",
    )
    options, handed_on = parser.parse_known_args(words)
    settings = configuration(["fit", *handed_on])
    model, rows = settings["model"], settings["data"]["batch_size"]
    base, lora, optim = (
        BaseSettings(**model["base"]),
        LoraSettings(**model["lora"]),
        OptimSettings(**model["optim"]),
    )
    tokens = rows * settings["data"]["max_length"] if options.tokens is None else options.tokens
    if tokens < 1:
        raise ValueError(
            f"--tokens {tokens}: needed is the number of packed tokens of a micro-batch, 1 or more"
        )
    estimate = estimate_phase(load_config(base), base, lora, optim, tokens, rows)
    print(
        f"{base.name}, {base.quantization}, LoRA r {lora.r}: {estimate.trained:,} trained parameters"
    )
    print(f"micro-batch of {rows} rows, {tokens:,} packed tokens\n")
    lines = [(item.name, f"{item.bytes / 1e9:.2f}", item.formula) for item in estimate.items]
    lines.append(("peak", f"{estimate.peak_bytes / 1e9:.2f}", ""))
    print(Table(("in the GPU's memory", "GB", "computed as"), lines).markdown() + "\n")
    gpus = []
    for gpu in estimate.gpus:
        least = gpu.least_checkpointing
        message = "too large" if least is None else str(least).lower()
        gpus.append((gpu.gpu, f"{gpu.memory_gb:.1f}", "yes" if gpu.fits else "no", message))
    print(Table(("GPU", "GB", "fits", "model.base.gradient_checkpointing"), gpus).markdown())
    print(
        f"\nThe last column is the value that recomputes least and fits, with {MARGIN:.0%} of the GPU's "
        "memory left free.\nA number stores the activations of a micro-batch of that many packed "
        "tokens; a longer one recomputes the rest."
    )
    print(
        f"\nA checkpoint takes {estimate.checkpoint_bytes / 1e9:.2f} GB on disk, and "
        f"{settings['run']['keep']} are kept. Each of the two adapter folders takes "
        f"{estimate.adapter_bytes / 1e9:.2f} GB."
    )
