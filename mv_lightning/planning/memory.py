"""What training takes of a GPU's memory, computed term by term from the shapes; nothing is loaded.

It answers what fits before hours are spent, and how many layers' activations may stay in the memory instead of being
computed again in the backward pass (Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mv_lightning.model.adapters import TARGETS, LoraSettings
from mv_lightning.model.base import BaseSettings, stored_layers
from mv_lightning.model.optim import OptimSettings, state_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BLOCK, DOUBLE_BLOCK = 64, 256
"""bitsandbytes: weights that share a scale, and scales that share one (double quantisation)."""
CONTEXT_GB = 0.5
"""The CUDA context and the libraries' workspaces: assumed."""


@dataclass(frozen=True)
class MemoryItem:
    """A part of the peak, with how it is computed."""

    name: str
    bytes: float
    formula: str


@dataclass(frozen=True)
class ModelDims:
    """The counts of a Llama that its memory depends on."""

    layers: int
    hidden: int
    inner: int
    queries: int
    """Numbers of a token's queries, over all heads."""
    keys: int
    vocabulary: int
    projections: int
    """Weights of the adapted projections: those that are quantised."""
    largest: int
    """Weights of the largest projection."""
    other: int
    """Weights that stay in 16 bits: embeddings, head, norms."""
    sides: int
    """Inputs and outputs of all adapted projections: an adapter has rank times as many weights."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelDims:
        """Return the counts of a model, built without storage.

        Args:
            config: Of a Llama.
        """
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        adapted = [shape for name, shape in shapes.items() if name.split(".")[-2] in TARGETS]
        projections = sum(shape.numel() for shape in adapted)
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            queries=config.num_attention_heads * config.head_dim,
            keys=config.num_key_value_heads * config.head_dim,
            vocabulary=config.vocab_size,
            projections=projections,
            largest=max(shape.numel() for shape in adapted),
            other=sum(shape.numel() for shape in shapes.values()) - projections,
            sides=sum(sum(shape) for shape in adapted),
        )

    def trained(self, rank: int) -> int:
        """Return the weights of the adapters.

        Args:
            rank: Of them.
        """
        return rank * self.sides

    def layer_bytes(self, rank: int) -> int:
        """Return what one layer keeps of a token for the backward pass, with 16-bit products, in bytes.

        In 16 bits: the outputs of both norms, read by q, k, v and by gate, up; q, k, v; attention's output, read by o;
        gate, up, the activation and their product, read by down; the adapters' first products. In fp32: the inputs of
        both norms.

        Args:
            rank: Of the adapters.
        """
        halves = (
            2 * self.hidden
            + 2 * self.queries
            + 2 * self.keys
            + 4 * self.inner
            + len(TARGETS) * rank
        )
        return 2 * halves + 4 * 2 * self.hidden


def training_memory(
    shape: ModelDims,
    base: BaseSettings,
    lora: LoraSettings,
    optim: OptimSettings,
    tokens: int,
    rows: int,
) -> list[MemoryItem]:
    """Return the parts of the peak of training, in bytes.

    Args:
        shape: Of the base model.
        base: How it is held, and what is computed again.
        lora: The adapters.
        optim: The optimizer; a paged one is counted as if nothing were paged out.
        tokens: Of the largest packed micro-batch.
        rows: Of the micro-batch.
    """
    layer = shape.layer_bytes(lora.r)
    kept = stored_layers(base.gradient_checkpointing, tokens, shape.layers)
    again = shape.layers - kept
    adapter, scales = shape.trained(lora.r), shape.projections / BLOCK
    state = state_bytes(optim, adapter)
    weights = (
        [
            MemoryItem("base, 4 bits", shape.projections / 2, f"{shape.projections:,} weights / 2"),
            MemoryItem(
                "base, scales",
                scales + 4 * scales / DOUBLE_BLOCK,
                f"weights / {BLOCK} x (1 + 4 / {DOUBLE_BLOCK}), double quantisation",
            ),
            MemoryItem(
                "a projection in 16 bits, for its products",
                2 * shape.largest,
                f"{shape.largest:,} x 2",
            ),
        ]
        if base.quantization == "nf4"
        else [
            MemoryItem("base, 16 bits", 2 * shape.projections, f"{shape.projections:,} weights x 2")
        ]
    )
    return [
        *weights,
        MemoryItem("embeddings, head, norms in 16 bits", 2 * shape.other, f"{shape.other:,} x 2"),
        MemoryItem("adapters in fp32", 4 * adapter, f"{adapter:,} x 4"),
        MemoryItem("their gradients in fp32", 4 * adapter, f"{adapter:,} x 4"),
        MemoryItem(f"state of {optim.name}", state, f"{adapter:,} x {state / adapter:.3f}"),
        MemoryItem(
            f"activations of {kept} of {shape.layers} layers, kept",
            kept * tokens * layer,
            f"{kept} x {tokens:,} tokens x {layer:,}",
        ),
        MemoryItem(
            f"inputs of {again} layers, computed again",
            2 * again * tokens * shape.hidden,
            f"{again} x {tokens:,} x {shape.hidden:,} x 2",
        ),
        MemoryItem(
            "activations of the one in hand",
            min(again, 1) * tokens * layer,
            f"{tokens:,} x {layer:,}",
        ),
        MemoryItem(
            "a layer's gradients",
            2 * tokens * (3 * shape.inner + 2 * shape.hidden),
            f"{tokens:,} x (3 x {shape.inner:,} + 2 x {shape.hidden:,}) x 2",
        ),
        MemoryItem(
            "logits at the verdicts, in fp32 and 16 bits, and their gradients",
            12 * rows * shape.vocabulary,
            f"{rows} x {shape.vocabulary:,} x 12",
        ),
        MemoryItem("CUDA context and workspaces", CONTEXT_GB * 1e9, "assumed"),
    ]


def least_checkpointing(
    shape: ModelDims,
    base: BaseSettings,
    lora: LoraSettings,
    optim: OptimSettings,
    tokens: int,
    rows: int,
    budget: float,
) -> bool | int | None:
    """Return the `gradient_checkpointing` that computes least again and still fits; None if nothing does.

    Args:
        shape: Of the base model.
        base: How it is held.
        lora: The adapters.
        optim: The optimizer.
        tokens: Of the largest packed micro-batch.
        rows: Of the micro-batch.
        budget: Memory, in bytes.
    """

    def peak(kept_tokens: bool | int) -> float:
        settings = replace(base, gradient_checkpointing=kept_tokens)
        return sum(
            term.bytes for term in training_memory(shape, settings, lora, optim, tokens, rows)
        )

    if peak(False) <= budget:
        return False
    if peak(True) > budget:
        return None
    return bisect_right(range(1, tokens), budget, key=peak) or True
