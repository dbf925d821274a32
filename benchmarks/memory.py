"""Estimate of the peak GPU memory of training, term by term: Llama-3-8B in NF4, r 128, 2 rows of 2,048 tokens.

    python -m benchmarks.memory [--rank 128] [--tokens 4096]

Counted from the model's shape, nothing is loaded. The counts of the base come from transformers, built without
storage; the rest is arithmetic that is printed with each term. Writes `benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from benchmarks.llama import LLAMA_3_8B
from benchmarks.measure import record
from mv_lightning.model.adapters import TARGETS

TARGET_GB = 14.0
BLOCK, DOUBLE_BLOCK = 64, 256
"""bitsandbytes: weights that share a scale, and scales that share one (double quantisation)."""
STATE_BLOCK = 256
"""bitsandbytes: numbers of 8-bit optimizer state that share a scale."""
CONTEXT_GB = 0.5
"""The CUDA context and the libraries' workspaces: assumed, it has not been measured on a GPU here."""


@dataclass(frozen=True)
class Term:
    """A part of the peak, with how it is computed."""

    name: str
    bytes: float
    formula: str


def terms(config: Any, rank: int, tokens: int, prompt_rows: int) -> list[Term]:
    """Return the parts of the peak.

    Args:
        config: Of a Llama.
        rank: Of the adapters.
        tokens: Of a packed micro-batch.
        prompt_rows: Its rows.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    projections = [shape for name, shape in shapes.items() if name.split(".")[-2] in TARGETS]
    quantised = sum(shape.numel() for shape in projections)
    rest = sum(shape.numel() for shape in shapes.values()) - quantised
    adapter = rank * sum(out_features + in_features for out_features, in_features in projections)
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    largest = max(shape.numel() for shape in projections)
    # What the backward pass of one layer keeps, numbers a token. bf16: the two norms' outputs, read by q, k, v and by
    # gate, up; q, k, v after the rotation; attention's output, read by o; gate, up, their product, the activation.
    # fp32 inside each norm: its input.
    kept_bf16 = 2 * hidden + queries + 2 * keys + queries + 4 * inner
    kept_fp32 = 2 * hidden
    low = 2 * rank * len(TARGETS)
    scales = quantised / BLOCK
    return [
        Term("base, 4 bits", quantised / 2, f"{quantised:,} weights / 2"),
        Term(
            "base, scales",
            scales + 4 * scales / DOUBLE_BLOCK,
            f"weights / {BLOCK} x (1 + 4 / {DOUBLE_BLOCK}) bytes, double quantisation",
        ),
        Term("embeddings, head, norms in bf16", 2 * rest, f"{rest:,} x 2"),
        Term("adapters in fp32", 4 * adapter, f"{adapter:,} x 4"),
        Term("their gradients in fp32", 4 * adapter, f"{adapter:,} x 4"),
        Term(
            "8-bit optimizer state",
            2 * adapter * (1 + 4 / STATE_BLOCK),
            f"2 x {adapter:,} x (1 + 4 / {STATE_BLOCK})",
        ),
        Term(
            "checkpoints of the layers' inputs", 2 * tokens * hidden * layers, f"2 x {tokens:,} x {hidden} x {layers}"
        ),
        Term(
            "one layer, recomputed",
            tokens * (2 * kept_bf16 + 4 * kept_fp32 + low),
            f"{tokens:,} x (2 x {kept_bf16:,} + 4 x {kept_fp32:,} + 2 x {rank} x {len(TARGETS)})",
        ),
        Term(
            "its gradients, working",
            2 * tokens * (3 * inner + 2 * hidden),
            f"2 x {tokens:,} x (3 x {inner:,} + 2 x {hidden})",
        ),
        Term("one projection in bf16", 2 * largest, f"2 x {largest:,}"),
        Term(
            "logits at the verdicts, fp32 and bf16, with gradients",
            2 * 6 * prompt_rows * config.vocab_size,
            f"2 x 6 x {prompt_rows} x {config.vocab_size:,}",
        ),
        Term("CUDA context and workspaces", CONTEXT_GB * 1e9, "assumed"),
    ]


def main() -> None:
    """Print every term with its formula, and the sum."""
    from transformers import LlamaConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=2 * 2_048, help="of a packed micro-batch")
    parser.add_argument("--rows", type=int, default=2, help="of a micro-batch")
    options = parser.parse_args()
    found = terms(LlamaConfig(**LLAMA_3_8B), options.rank, options.tokens, options.rows)
    for term in found:
        print(f"{term.name:56}{term.bytes / 1e9:8.3f} GB   {term.formula}")
    total = sum(term.bytes for term in found) / 1e9
    print(f"{'peak, estimated':56}{total:8.3f} GB   target: at most {TARGET_GB} GB")
    record(
        "memory",
        settings={"model": "Llama-3-8B, NF4, gradient checkpointing", **vars(options)},
        terms=[{"name": t.name, "gb": t.bytes / 1e9, "formula": t.formula} for t in found],
        figures={"peak_gb": total, "target_gb": TARGET_GB},
        measured_on_a_gpu=None,
    )


if __name__ == "__main__":
    main()
