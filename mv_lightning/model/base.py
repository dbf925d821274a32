"""The base model and its tokenizer: found, loaded, quantized, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from mv_lightning.formatting import first_line
from mv_lightning.model import attention
from mv_lightning.model.activation_checkpointing import enable_checkpointing
from mv_lightning.model.bundled import BUNDLED
from mv_lightning.model.compilation import compile_layers
from mv_lightning.model.families import check_dtype, check_family
from mv_lightning.model.location import absolute_name, locate
from mv_lightning.model.quantization import (
    Quantization,
    check_stored_quantization,
    is_stored_in_4_bits,
    prepare_quantized,
    quantization_config,
    require_bitsandbytes,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BaseSettings:
    """Which model is adapted, and how it is stored in memory."""

    name: str = "unsloth/Meta-Llama-3.1-8B"
    """A causal model of a supported family: its folder, a `.gguf` file, its Hub id (`owner/name` or
    `owner/name@revision`), or `bundled`."""
    quantization: Quantization = "nf4"
    """`nf4`: 4-bit NormalFloat, double quantization (Dettmers et al. 2023, arXiv:2305.14314).
    Weights that bitsandbytes has quantized to 4 bits already are used as they are."""
    gradient_checkpointing: bool | int = True
    """Recompute layers in the backward pass: about a third more time, a fraction of the memory.
    true: all layers; false: none; a number of packed tokens: of a micro-batch with more tokens than
    this, as many layers as needed (`estimate` computes the number)."""
    compile: bool = False
    """Compile the norms and the gated activations (torch.compile), which takes about a minute at
    the start and a C compiler. For GPUs; not measured on one yet."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` fills the model from its config, layer by layer: to measure speed and memory."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", absolute_name(self.name))
        if not isinstance(self.gradient_checkpointing, bool) and self.gradient_checkpointing < 1:
            raise ValueError(
                "expected model.base.gradient_checkpointing to be true, false or a positive number "
                f"of packed tokens, got {self.gradient_checkpointing}. `estimate` computes the "
                "number of tokens whose activations fit into a GPU's memory."
            )


def load_tokenizer(settings: BaseSettings) -> PreTrainedTokenizerBase:
    """Return the base model's tokenizer.

    Args:
        settings: Which model.

    Raises:
        ValueError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    location = locate(settings.name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            location.source, revision=location.revision
        )
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded("tokenizer", settings.name, error)) from error
    return tokenizer


def load_config(settings: BaseSettings) -> PretrainedConfig:
    """Return the base model's config.

    Args:
        settings: Which model.

    Raises:
        ValueError: It cannot be found, is not of a supported family, or its weights are quantized
            in another way than set.
    """
    from transformers import AutoConfig

    location = locate(settings.name)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            location.source, revision=location.revision
        )
    except (OSError, ValueError) as error:
        raise ValueError(_not_loaded("config", settings.name, error)) from error
    check_family(config, settings.name)
    if settings.weights == "pretrained":
        check_stored_quantization(config, settings.quantization, settings.name)
    return config


def load_base(settings: BaseSettings, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Return the base model, quantized and frozen, with packed attention, in training mode.

    Args:
        settings: Which model, and how it is stored.
        dtype: Of what is not quantized, and of the matmuls.
        device: Where to.

    Raises:
        ValueError: It cannot be found, is not of a supported family, or cannot be quantized here.
    """
    attention.register()
    quantized = settings.quantization != "none"
    if quantized:
        require_bitsandbytes(
            f"model.base.quantization={settings.quantization}", "model.base.quantization=none"
        )
    config = load_config(settings)
    check_dtype(config, dtype, settings.name)
    if settings.weights == "random":
        from mv_lightning.model.random_weights import build_random_model

        model = build_random_model(config, settings.quantization, dtype, device)
    else:
        model = _load_pretrained(settings, config, dtype, device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if quantized:
        prepare_quantized(model, dtype)
    if settings.compile:
        compile_layers(model)
    if settings.gradient_checkpointing is not False:
        enable_checkpointing(model)
    # from_pretrained returns evaluation mode, in which gradient checkpointing does nothing.
    model.train()
    return model


def _load_pretrained(
    settings: BaseSettings, config: PretrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    options = {}
    if settings.quantization != "none" and not is_stored_in_4_bits(config):
        # An explicit None would make transformers ignore how stored weights are quantized.
        options["quantization_config"] = quantization_config(settings.quantization, dtype)

    location = locate(settings.name)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            location.source,
            revision=location.revision,
            dtype=dtype,
            device_map={"": device},
            attn_implementation=attention.NAME,
            **options,
        )
    except OSError as error:
        raise ValueError(_not_loaded("weights", settings.name, error)) from error
    return model


def _not_loaded(part: str, name: str, error: Exception) -> str:
    return (
        f"the {part} of base model {name!r} could not be loaded: {first_line(error)} Where the "
        "Hub cannot be reached, download the model on another machine and set model.base.name to "
        f"its folder; `{BUNDLED}` needs no download."
    )
