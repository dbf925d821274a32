"""Which layers keep their activations and which recompute them in the backward pass.

Chen et al. 2016 (arXiv:1604.06174).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import Dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def enable_checkpointing(model: PreTrainedModel, dropout: bool = False) -> None:
    """Make every layer recompute its activations, until `choose_checkpointing` says otherwise.

    Args:
        model: The base model; changed in place.
        dropout: Whether there is dropout outside of the base. Only with dropout are the states of
            the random generators restored, which takes time in every layer.
    """
    dropout = dropout or any(isinstance(m, Dropout) and m.p > 0 for m in model.modules())
    options = {"use_reentrant": False, "preserve_rng_state": dropout}
    model.disable_input_require_grads()  # they are enabled by what follows, once more each time
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def stored_layers(gradient_checkpointing: bool | int, tokens: int, layers: int) -> int:
    """Return how many layers keep their activations for the backward pass; the others recompute.

    Args:
        gradient_checkpointing: See `BaseSettings`.
        tokens: Of the packed micro-batch.
        layers: Of the model.
    """
    if gradient_checkpointing is True:
        return 0
    if gradient_checkpointing is False:
        return layers
    return min(layers, layers * gradient_checkpointing // max(tokens, 1))


def choose_checkpointing(
    model: PreTrainedModel, gradient_checkpointing: bool | int, tokens: int
) -> None:
    """Set which layers recompute the next micro-batch; its result does not depend on this.

    Args:
        model: What `load_base` returned.
        gradient_checkpointing: The setting that it was loaded with.
        tokens: Of the packed micro-batch.
    """
    layers = model.base_model.layers
    stored = stored_layers(gradient_checkpointing, tokens, len(layers))
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index >= stored
