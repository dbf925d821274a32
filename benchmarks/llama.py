"""Llama-3-8B without a download: its published architecture with random weights.

Speed and memory do not depend on the values of the weights. The tokenizer is that of the bundled
model; its vocabulary is smaller than Llama's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

LLAMA_3_8B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500_000.0,
    "max_position_embeddings": 8_192,
    "tie_word_embeddings": False,
}
"""The published config of Meta-Llama-3-8B."""
TINY: dict[str, Any] = {
    **LLAMA_3_8B,
    "vocab_size": 49_152,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""A small Llama to check on a CPU that a script runs; its vocabulary fits the bundled tokenizer."""


def write_base(folder: Path, shape: dict[str, Any]) -> None:
    """Write what `model.base.weights=random` reads: a config and a tokenizer.

    Args:
        folder: The folder to create.
        shape: `LLAMA_3_8B` or `TINY`.
    """
    from transformers import LlamaConfig

    from mv_lightning.model.base import BaseSettings, load_tokenizer
    from mv_lightning.model.bundled import BUNDLED

    LlamaConfig(**shape).save_pretrained(folder)
    load_tokenizer(BaseSettings(name=BUNDLED)).save_pretrained(folder)
