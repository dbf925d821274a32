"""The summary counts weights, not the bytes that hold two of them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mv_lightning.model.adapters import LoraSettings, trained_parameters
from mv_lightning.model.base import BaseSettings
from mv_lightning.training.model_summary import summarize


def test_weights_are_counted_as_in_the_unquantised_model(
    tiny: torch.nn.Module, tiny_settings: BaseSettings
) -> None:
    config = AutoConfig.from_pretrained(tiny_settings.name)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in plain.parameters())
    adapters = sum(parameter.numel() for parameter in trained_parameters(tiny).values())
    module = SimpleNamespace(
        adapted=tiny, base_settings=tiny_settings, lora_settings=LoraSettings(r=32), head="verdict"
    )
    text = summarize(module)  # type: ignore[arg-type]
    assert f"{weights / 1e6:,.1f} M parameters" in text
    assert f"{adapters / 1e6:,.2f} M trained parameters" in text and "LoRA r 32" in text
