"""Memory that training needs on a GPU, computed term by term from the shapes; nothing is loaded.

It says what fits before hours are spent, and how many layers' activations may stay in memory
instead of being recomputed in the backward pass (Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mv_lightning.model.activation_checkpointing import stored_layers
from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings
from mv_lightning.model.families import Family, family_of
from mv_lightning.model.linear_head import HeadKind
from mv_lightning.model.optim import OptimSettings, state_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BLOCK = 64
"""bitsandbytes: weights that share a scale."""
CONTEXT_GB = 0.5
"""The CUDA context and the libraries' workspaces: assumed."""


@dataclass(frozen=True)
class MemoryItem:
    """A part of the peak, and how it is computed."""

    name: str
    bytes: float
    formula: str


@dataclass(frozen=True)
class ModelDims:
    """The dimensions of a base model that its memory depends on."""

    family: Family
    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward layers."""
    queries: int
    """Width of a token's queries, over all heads."""
    keys: int
    """Width of a token's keys, over all key/value heads."""
    softcapped_heads: int
    """Query heads whose scores have a soft cap, which no fused kernel computes; 0 for none."""
    vocabulary: int
    projections: int
    """Weights of the adapted projections: those that are quantized."""
    largest: int
    """Weights of the largest projection."""
    other: int
    """Weights that stay in 16 bits: embeddings, head, norms, biases."""
    sides: int
    """Inputs plus outputs of all adapted projections: an adapter has rank times as many weights."""
    repeats_keys: bool = False
    """Whether keys and values are repeated for the queries that share them: on GPUs without varlen
    attention (compute capability below 8.0)."""
    matmul_bytes: int = 2
    """Bytes of a number that is not quantized: 2 with bf16 and fp16, 4 with fp32."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelDims:
        """Return the dimensions of a model, built without storage.

        Args:
            config: Of the base model.
        """
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        family, heads = family_of(config), config.num_attention_heads
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        weights = tuple(f".{target}.weight" for target in family.targets)
        adapted = [shape for name, shape in shapes.items() if name.endswith(weights)]
        projections = sum(shape.numel() for shape in adapted)
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        softcap = family.softcapped_scores and config.attn_logit_softcapping is not None
        return cls(
            family=family,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            queries=heads * head_size,
            keys=config.num_key_value_heads * head_size,
            softcapped_heads=heads if softcap else 0,
            vocabulary=config.vocab_size,
            projections=projections,
            largest=max(shape.numel() for shape in adapted),
            other=sum(shape.numel() for shape in shapes.values()) - projections,
            sides=sum(sum(shape) for shape in adapted),
        )

    def trained(self, rank: int, head: HeadKind = "verdict") -> int:
        """Return the number of trained weights: those of the adapters, and of a head of its own.

        Args:
            rank: Of the adapters.
            head: What computes the log-odds.
        """
        return rank * self.sides + (self.hidden if head == "linear" else 0)

    def layer_bytes(self, rank: int) -> int:
        """Return the bytes that a layer keeps of a token for the backward pass.

        In the dtype of the matmuls: the inputs of q, k, v and of gate, up; q, k, v; attention's
        output, read by o; gate, up, the activation and its product with up, read by down; the
        results of the adapters' first matmuls. In fp32: the inputs of the norms. Attention scores
        are counted elsewhere.

        Args:
            rank: Of the adapters.
        """
        in_matmuls = (
            2 * self.hidden
            + 2 * self.queries
            + 2 * self.keys
            + 4 * self.inner
            + len(self.family.targets) * rank
        )
        in_fp32 = self.family.layer_norms * self.hidden
        if self.family.query_key_norms:
            in_fp32 += self.queries + self.keys
        if self.repeats_keys:
            in_matmuls += 2 * (self.queries - self.keys)
        if "qkv_proj" in self.family.targets:
            # The values are a view into the fused projection's output, and keep all of it.
            in_matmuls += self.queries + self.keys
        return self.matmul_bytes * in_matmuls + 4 * in_fp32 + self.family.dropouts * self.hidden

    def layer_weight_bytes(self, base: BaseSettings) -> float:
        """Return the bytes of the projections of all layers, without the scales of 4-bit ones.

        Args:
            base: How they are stored.
        """
        return self.projections * (self.matmul_bytes if base.quantization == "none" else 1 / 2)

    def score_bytes(self, row_tokens: float) -> float:
        """Return the bytes of attention scores that a layer keeps of a token, 0 with fused kernels.

        With a soft cap: its output, and the weights in fp32 and in the dtype of the matmuls. A
        token sees half of its row's tokens on average.

        Args:
            row_tokens: Tokens of a row.
        """
        return self.softcapped_heads * row_tokens / 2 * (4 + 2 * self.matmul_bytes)


def training_memory(
    dims: ModelDims,
    base: BaseSettings,
    lora: LoraSettings,
    optim: OptimSettings,
    tokens: int,
    rows: int,
    distributed: bool = False,
    head: HeadKind = "verdict",
    shards: int = 1,
) -> list[MemoryItem]:
    """Return the parts of the peak of training.

    Args:
        dims: Of the base model.
        base: How it is stored, and what is recomputed.
        lora: The adapters.
        optim: The optimizer; a paged one is counted as if nothing were paged out.
        tokens: Of the largest packed micro-batch.
        rows: Of the micro-batch.
        distributed: Whether several processes train (DDP). In the first step the gradients of
            micro-batches are added up beside the buckets in which they are then averaged.
        head: What computes the log-odds.
        shards: GPUs among which the layers of the base are divided, see `model/sharding.py`. Two
            layers are gathered at a time: the one that is computed and the next one.
    """
    classes = 1 if head == "linear" else dims.vocabulary
    return [
        *_base_items(dims, base, shards),
        *_adapter_items(dims.trained(lora.r, head), optim, distributed),
        *_activation_items(dims, base, lora, tokens, rows),
        MemoryItem(
            "logits at the verdicts, in fp32 and as computed, and their gradients",
            2 * (4 + dims.matmul_bytes) * rows * classes,
            f"{rows} x {classes:,} x {2 * (4 + dims.matmul_bytes)}",
        ),
        MemoryItem("CUDA context and workspaces", CONTEXT_GB * 1e9, "assumed"),
    ]


def least_checkpointing(
    dims: ModelDims,
    base: BaseSettings,
    lora: LoraSettings,
    optim: OptimSettings,
    tokens: int,
    rows: int,
    budget: float,
    distributed: bool = False,
    head: HeadKind = "verdict",
) -> bool | int | None:
    """Return the `gradient_checkpointing` that recomputes least and fits; None if nothing does.

    Args:
        dims: Of the base model.
        base: How it is stored.
        lora: The adapters.
        optim: The optimizer.
        tokens: Of the largest packed micro-batch.
        rows: Of the micro-batch.
        budget: Memory, in bytes.
        distributed: See `training_memory`.
        head: What computes the log-odds.
    """

    def peak(gradient_checkpointing: bool | int) -> float:
        settings = replace(base, gradient_checkpointing=gradient_checkpointing)
        items = training_memory(dims, settings, lora, optim, tokens, rows, distributed, head)
        return sum(item.bytes for item in items)

    if peak(False) <= budget:
        return False
    if peak(True) > budget:
        return None
    return bisect_right(range(1, tokens), budget, key=peak) or True


def _base_items(dims: ModelDims, base: BaseSettings, shards: int) -> list[MemoryItem]:
    size, bits = dims.matmul_bytes, f"{8 * dims.matmul_bytes} bits"
    whole, is_quantized = dims.layer_weight_bytes(base), base.quantization != "none"
    formula = f"{dims.projections:,} weights " + ("/ 2" if is_quantized else f"x {size}")
    if shards > 1:
        formula += f" / {shards}"
    name = "base, 4 bits" if is_quantized else f"base, {bits}"
    items = [MemoryItem(name, whole / shards, formula)]
    if shards > 1:
        formula = f"2 / {dims.layers} x {whole / 1e9:.2f} GB of the base"
        items.append(MemoryItem("two gathered layers", 2 * whole / dims.layers, formula))
    if is_quantized:
        items.append(_scales(dims, expanded=shards == 1))
        temporary = f"a projection in {bits}, for its matmuls"
        items.append(MemoryItem(temporary, size * dims.largest, f"{dims.largest:,} x {size}"))
    others = f"embeddings, head, norms, biases in {bits}"
    return [*items, MemoryItem(others, size * dims.other, f"{dims.other:,} x {size}")]


def _scales(dims: ModelDims, expanded: bool) -> MemoryItem:
    """Of the 4-bit weights. Those of a sharded base stay whole and as they are stored: 8 bits, and
    an fp32 scale for every 256 of them."""
    blocks = dims.projections / BLOCK
    if expanded:
        formula = f"weights / {BLOCK} x 4, expanded from double quantization"
        return MemoryItem("base, scales", 4 * blocks, formula)
    formula = f"weights / {BLOCK} x (1 + 4 / 256), not expanded"
    return MemoryItem("base, scales", (1 + 4 / 256) * blocks, formula)


def _adapter_items(trained: int, optim: OptimSettings, distributed: bool) -> list[MemoryItem]:
    state = state_bytes(optim, trained)
    buckets = [MemoryItem("buckets of DDP for them", 4 * trained, f"{trained:,} x 4")]
    return [
        MemoryItem("adapters in fp32", 4 * trained, f"{trained:,} x 4"),
        MemoryItem("their gradients in fp32", 4 * trained, f"{trained:,} x 4"),
        *(buckets if distributed else []),
        MemoryItem(f"state of {optim.name}", state, f"{trained:,} x {state / trained:.3f}"),
    ]


def _activation_items(
    dims: ModelDims, base: BaseSettings, lora: LoraSettings, tokens: int, rows: int
) -> list[MemoryItem]:
    layer = dims.layer_bytes(lora.r) + int(dims.score_bytes(tokens / rows))
    stored = stored_layers(base.gradient_checkpointing, tokens, dims.layers)
    recomputed = dims.layers - stored
    return [
        MemoryItem(
            f"activations of {stored} of {dims.layers} layers, stored",
            stored * tokens * layer,
            f"{stored} x {tokens:,} tokens x {layer:,}",
        ),
        MemoryItem(
            f"inputs of {recomputed} layers, recomputed",
            dims.matmul_bytes * recomputed * tokens * dims.hidden,
            f"{recomputed} x {tokens:,} x {dims.hidden:,} x {dims.matmul_bytes}",
        ),
        MemoryItem(
            "activations of the layer being recomputed",
            min(recomputed, 1) * tokens * layer,
            f"{tokens:,} x {layer:,}",
        ),
        MemoryItem(
            "a layer's gradients",
            dims.matmul_bytes * tokens * (3 * dims.inner + 2 * dims.hidden),
            f"{tokens:,} x (3 x {dims.inner:,} + 2 x {dims.hidden:,}) x {dims.matmul_bytes}",
        ),
    ]
