"""LoftQ reduces the quantization error, where it can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mv_lightning.model import adapters, base


def test_loftq_compensates_the_quantization_error(tiny_settings: base.BaseSettings) -> None:
    """The initial output is nearer to that of the base before it was quantized."""
    from transformers import AutoModelForCausalLM

    exact = AutoModelForCausalLM.from_pretrained(tiny_settings.name, dtype=torch.float32).eval()
    ids = torch.randint(3, 250, (4, 40), generator=torch.Generator().manual_seed(0))
    errors = {}
    with torch.no_grad():
        expected = exact(ids).logits
        for loftq in (False, True):
            model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
            adapted = adapters.attach(
                model, adapters.LoraSettings(r=32, alpha=32, loftq=loftq)
            ).eval()
            model.set_attn_implementation("sdpa")
            errors[loftq] = float((adapted(input_ids=ids).logits - expected).norm())
    assert errors[True] < 0.9 * errors[False]


def test_loftq_needs_a_quantized_local_base(tiny_folder: Path) -> None:
    settings = base.BaseSettings(name=str(tiny_folder), quantization="none")
    model = base.load_base(settings, torch.float32, torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"expected a base model that is quantized .*nf4.*model.lora.loftq, got"
    ):
        adapters.attach(model, adapters.LoraSettings(loftq=True))
