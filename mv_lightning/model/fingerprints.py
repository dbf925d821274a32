"""Hashes that identify a base model and a tokenizer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from mv_lightning.hashing import sha256_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HEX_DIGITS = 16


def base_fingerprint(model: PreTrainedModel) -> str:
    """Hash what identifies a base model: its dimensions and its norms, which stay unquantized.

    Two models of one architecture differ in their norms as soon as they were trained differently,
    so that an adapter on another base than its own is noticed without hashing gigabytes.

    Args:
        model: The base model, quantized or not.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            # By way of bf16, so that the precision that the base is loaded in does not matter.
            weight = parameter.detach().to("cpu", torch.bfloat16).to(torch.float16)
            digest.update(weight.numpy().tobytes())
    config = model.config
    digest.update(repr((config.hidden_size, config.num_hidden_layers, config.vocab_size)).encode())
    return digest.hexdigest()[:_HEX_DIGITS]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a tokenizer's vocabulary: in another one the same ids are other tokens.

    Args:
        tokenizer: The tokenizer.
    """
    vocabulary = repr(sorted(tokenizer.get_vocab().items())).encode("utf-8", "surrogatepass")
    return sha256_bytes(vocabulary)[:_HEX_DIGITS]
