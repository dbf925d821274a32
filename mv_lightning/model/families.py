"""The families of base models that are supported, and what differs between them.

Stated here is what this package has to honour itself. What transformers' own layers compute needs
no entry: norms on queries and keys (Qwen3, OLMo 2, Gemma 3), layers without rotary embeddings
(SmolLM3), embedding and residual factors (Gemma, Granite), activations. The layers also pass their
scale, sliding window and soft cap to the attention function, see `attention.packed_attention`. The
test of the families compares all of it with transformers' own forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The adapted projections of most families."""


@dataclass(frozen=True)
class Family:
    """What differs between families of base models."""

    models: str
    """Models of the family, for the documents and the messages."""
    targets: tuple[str, ...] = TARGETS
    """Names of the adapted projections: all matrices of a layer."""
    layer_norms: int = 2
    """Norms of a layer over the hidden width."""
    query_key_norms: bool = False
    """Whether a layer has norms over its queries and keys."""
    dropouts: int = 0
    """Dropouts of a layer over the hidden width; each keeps a mask, even with probability 0."""
    softcapped_scores: bool = False
    """Whether attention scores have the soft cap `attn_logit_softcapping`, unless it is None."""
    logit_divisor: str | None = None
    """The config's name of what logits are divided by."""
    logit_softcap: str | None = None
    """The config's name of the limit c in c x tanh(logits / c); its value may be None."""
    overflows_in_fp16: bool = False
    """Whether activations exceed the range of fp16."""


FAMILIES = {
    "llama": Family("Llama 2 and 3, SmolLM2"),
    "mistral": Family("Mistral"),
    "qwen2": Family("Qwen2, Qwen2.5"),
    "qwen3": Family("Qwen3", query_key_norms=True),
    "smollm3": Family("SmolLM3"),
    "gemma2": Family(
        "Gemma 2",
        layer_norms=4,
        softcapped_scores=True,
        logit_softcap="final_logit_softcapping",
        overflows_in_fp16=True,
    ),
    "gemma3_text": Family(
        "Gemma 3 for text (270M, 1B)",
        layer_norms=4,
        query_key_norms=True,
        logit_softcap="final_logit_softcapping",
        overflows_in_fp16=True,
    ),
    "phi3": Family(
        "Phi-3, Phi-4", targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), dropouts=2
    ),
    "olmo2": Family("OLMo 2", query_key_norms=True),
    "granite": Family("Granite 3", logit_divisor="logits_scaling"),
}
"""By the `model_type` of a config."""

_STATEFUL = "it mixes tokens with a recurrent state, which rows of a packed batch would share"
_STATEFUL_LAYERS = ("linear_attention", "mamba", "conv", "recurrent")
_STATEFUL_TYPES = (
    "mamba",
    "rwkv",
    "recurrent_gemma",
    "xlstm",
    "zamba",
    "jamba",
    "falcon_h1",
    "lfm",
)
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a supported base model.

    Args:
        config: Of the base model, see `check_family`.
    """
    return FAMILIES[config.model_type]


def check_family(config: PretrainedConfig, name: str) -> None:
    """Check that a base model is of a supported family, in all that its config sets.

    Args:
        config: Of the base model.
        name: Of the base model, for the message.

    Raises:
        ValueError: It is not; the reason is given.
    """
    reason = _unsupported(config)
    if reason is None:
        return
    supported = ", ".join(family.models for family in FAMILIES.values())
    raise ValueError(
        f"expected a dense causal language model ({supported}), got {name!r} of type "
        f"{config.model_type!r}: {reason}. Choose another model.base.name."
    )


def check_dtype(config: PretrainedConfig, dtype: torch.dtype, name: str) -> None:
    """Check that a base model can be computed in a dtype.

    Args:
        config: Of the base model.
        dtype: Of the matmuls.
        name: Of the base model, for the message.

    Raises:
        ValueError: Its activations overflow in fp16.
    """
    import torch

    if dtype == torch.float16 and family_of(config).overflows_in_fp16:
        raise ValueError(
            f"expected trainer.precision=bf16-mixed or 32-true for {name!r}, got 16-mixed: the "
            f"activations of {family_of(config).models} exceed the range of fp16. Set "
            "trainer.precision=32-true on GPUs without bf16, or choose another model.base.name."
        )


def max_row_tokens(config: PretrainedConfig) -> int | None:
    """Return the tokens up to which a row's position embeddings do not depend on other rows.

    Some models choose their rotary frequencies by the longest row of a batch ("longrope",
    "dynamic"), so that a longer row would change the others.

    Args:
        config: Of the base model.

    Returns:
        Tokens; None for no limit.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    limits = []
    for parameters in by_layer_type or [rope]:
        if parameters.get("rope_type") == "longrope":
            limits.append(parameters["original_max_position_embeddings"])
        elif parameters.get("rope_type") == "dynamic":
            limits.append(config.max_position_embeddings)
    return min(limits, default=None)


def _unsupported(config: PretrainedConfig) -> str | None:
    """Why a base model is not supported; None if it is."""
    layer_types = getattr(config, "layer_types", None) or ()
    stateful = any(word in layer for layer in layer_types for word in _STATEFUL_LAYERS)
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder, which reads a prompt in another way"
    if hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        return "it reads images or sound too; its text-only variant may be supported"
    if stateful or any(word in config.model_type for word in _STATEFUL_TYPES):
        return _STATEFUL
    if any(getattr(config, count, None) for count in _EXPERT_COUNTS):
        return "it is a mixture of experts, which is not tested yet"
    if config.model_type not in FAMILIES:
        return "packed attention and adapters are not tested with this architecture"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is bidirectional, so that a shared prefix depends on what follows it"
    return None
