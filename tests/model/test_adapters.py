"""What is trained, and what it costs."""

from __future__ import annotations

import pytest
import torch

from mv_lightning.model import adapters, base


def test_flops_of_a_token(tiny: torch.nn.Module) -> None:
    # 2 layers; hidden 128, keys and values 64, inner 256; rank 32.
    weights = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
    adapters_ = 2 * 32 * (2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 256))
    assert adapters.flops_per_token(tiny) == 4 * weights + 6 * adapters_


@pytest.mark.parametrize("wrong", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected model\.lora to have r >= 1"):
        adapters.LoraSettings(**wrong)


def test_the_commit_of_a_base_on_the_hub_is_stored(tiny_settings: base.BaseSettings) -> None:
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    assert adapters.attach(model, adapters.LoraSettings()).peft_config["default"].revision is None
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    model.config._commit_hash = "0123abc"
    adapted = adapters.attach(model, adapters.LoraSettings())
    assert adapted.peft_config["default"].revision == "0123abc"
