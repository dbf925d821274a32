"""A head of its own for the verdict: one linear layer on the last hidden state.

It replaces the two verdict rows of the language-model head by one trained row, without a bias: the
head of transformers' sequence classifiers with one label. It is a submodule of the base model, so
that it is trained, counted and saved in checkpoints with the adapters; in an adapter's folder it
has a file of its own, and PEFT reads the rest of the folder as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HeadKind = Literal["verdict", "linear"]
"""`verdict`: the rows of the verdict tokens in the language-model head. `linear`: this one."""
HEAD_FILE = "verdict_head.safetensors"
"""In an adapter's folder."""
_NAME = "verdict_head"


def set_head(base: PreTrainedModel, kind: HeadKind) -> None:
    """Give a base model the head that is asked for, and take off one that it has.

    A linear head is of zeros, in fp32: every log-odds starts at 0.

    Args:
        base: The base model; changed in place.
        kind: Which head.
    """
    if linear_head(base) is not None:
        delattr(base, _NAME)
    if kind == "verdict":
        return
    head = torch.nn.Linear(base.config.hidden_size, 1, bias=False, device=base.device)
    torch.nn.init.zeros_(head.weight)
    setattr(base, _NAME, head)


def linear_head(base: PreTrainedModel) -> torch.nn.Linear | None:
    """Return the head, or None for a model without one.

    Args:
        base: The base model.
    """
    head: torch.nn.Linear | None = getattr(base, _NAME, None)
    return head


def save_linear_head(base: PreTrainedModel, folder: Path) -> None:
    """Write the head, if there is one, into an adapter's folder.

    Args:
        base: The base model.
        folder: An existing folder.
    """
    from safetensors.torch import save_file

    head = linear_head(base)
    if head is not None:
        save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD_FILE)


def load_linear_head(base: PreTrainedModel, folder: Path) -> None:
    """Fill the model's head from an adapter's folder.

    Args:
        base: The base model; changed in place.
        folder: Of the adapter.

    Raises:
        ValueError: One of the two has a head and the other has none, or the file does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    head, path = linear_head(base), folder / HEAD_FILE
    if (head is None) == path.exists():
        trained, current = ("linear", "verdict") if head is None else ("verdict", "linear")
        raise ValueError(
            f"the adapter in {folder} was trained with another head: expected model.head="
            f"{trained}, got {current}. Set model.head as it was in training."
        )
    if head is None:
        return
    try:
        weight = load_file(path)["weight"]
    except (OSError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Copy the folder again, or train the adapter again."
        ) from error
    if weight.shape != head.weight.shape:
        raise ValueError(
            f"{path}: expected a head of the shape {tuple(head.weight.shape)}, got "
            f"{tuple(weight.shape)}. Use the base that the adapter was trained on."
        )
    with torch.no_grad():
        head.weight.copy_(weight)
