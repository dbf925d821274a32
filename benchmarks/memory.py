"""Estimate the peak GPU memory of training Llama-3-8B in NF4, r 128, 2 rows of 2,048 tokens.

    python -m benchmarks.memory

All layers are recomputed in the backward pass. The items are those of `python -m mv_lightning
estimate`, for the published architecture instead of a downloaded config. Writes
`benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse

from benchmarks.llama import LLAMA_3_8B
from benchmarks.measure import record
from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.memory import ModelDims, training_memory

TARGET_GB = 14.0


def main() -> None:
    """Print every item with its formula, and the sum."""
    from transformers import LlamaConfig

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument(
        "--tokens", type=int, default=2 * 2_048, help="tokens of a packed micro-batch"
    )
    parser.add_argument("--rows", type=int, default=2, help="rows of a micro-batch")
    options = parser.parse_args()
    lora = LoraSettings(r=options.rank, alpha=options.rank)
    shape = ModelDims.of(LlamaConfig(**LLAMA_3_8B))
    terms = training_memory(
        shape, BaseSettings(), lora, OptimSettings(), options.tokens, options.rows
    )
    for term in terms:
        print(f"{term.name:66}{term.bytes / 1e9:8.3f} GB   {term.formula}")
    total = sum(term.bytes for term in terms) / 1e9
    print(f"{'peak, estimated':66}{total:8.3f} GB   target: at most {TARGET_GB} GB")
    record(
        "memory",
        settings={"model": "Llama-3-8B, NF4, gradient checkpointing", **vars(options)},
        terms=[{"name": t.name, "gb": t.bytes / 1e9, "formula": t.formula} for t in terms],
        figures={"peak_gb": total, "target_gb": TARGET_GB},
        measured_on_a_gpu=None,
    )


if __name__ == "__main__":
    main()
