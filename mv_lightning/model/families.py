"""The families of base models that are supported, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Family:
    """What differs between families of base models."""

    name: str


FAMILIES = {
    "llama": Family("Llama 2 and 3, SmolLM2"),
    "qwen2": Family("Qwen2 and Qwen2.5"),
}
"""By the `model_type` of a config."""


def check_family(config: PretrainedConfig, name: str) -> Family:
    """Return the family of a base model.

    Args:
        config: Of the base model.
        name: Of the base model, for the message.

    Raises:
        ValueError: The family is not supported.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"expected a base model of one of the types {', '.join(FAMILIES)}, got {name!r} of type "
            f"{config.model_type!r}. Choose another model.base.name."
        )
    return FAMILIES[config.model_type]
