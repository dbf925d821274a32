"""`estimate`: what a phase would take of a GPU and of the disk, before anything is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings, load_config
from mv_lightning.model.optim import OptimSettings, state_bytes
from mv_lightning.planning.memory import ModelDims, least_checkpointing, training_memory
from mv_lightning.reporting.blocks import Table

CARDS = {"T4": 15.8, "L4": 23.7, "A100, 40 GB": 42.4, "H100, A100 80 GB": 85.0}
"""Memory that PyTorch finds on a card, in GB (10^9 bytes)."""
MARGIN = 0.1
"""Share of a card's memory that is left free: the allocator's gaps, and what the terms do not know."""


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
    shape = ModelDims.of(load_config(base))
    trained = shape.trained(lora.r)
    terms = training_memory(shape, base, lora, optim, tokens, rows)

    print(f"{base.name}, {base.quantization}, LoRA r {lora.r}: {trained:,} weights are trained")
    print(f"micro-batch of {rows} rows, {tokens:,} packed tokens\n")
    lines = [(term.name, f"{term.bytes / 1e9:.2f}", term.formula) for term in terms]
    peak = sum(term.bytes for term in terms)
    lines.append(("peak", f"{peak / 1e9:.2f}", ""))
    print(Table(("in the GPU's memory", "GB", "computed as"), lines).markdown() + "\n")
    cards = []
    for name, memory in CARDS.items():
        budget = memory * (1 - MARGIN) * 1e9
        best = least_checkpointing(shape, base, lora, optim, tokens, rows, budget)
        told = "too large" if best is None else str(best).lower()
        cards.append((name, f"{memory:.1f}", "yes" if peak <= budget else "no", told))
    print(Table(("card", "GB", "fits", "model.base.gradient_checkpointing"), cards).markdown())
    print(
        "\nThe last column is the value that computes least again and fits, "
        f"{MARGIN:.0%} of the card left free: a number\nkeeps the activations of a micro-batch of so many packed "
        "tokens; a longer one computes again what is too much."
    )
    checkpoint = 4 * trained + state_bytes(optim, trained)
    print(
        f"\nA checkpoint takes {checkpoint / 1e9:.2f} GB of the disk, of which {settings['run']['keep']} stay; each of "
        f"the two adapter folders takes {4 * trained / 1e9:.2f} GB"
    )
