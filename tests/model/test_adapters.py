"""What is trained, and what it costs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mv_lightning.model import adapters, base
from mv_lightning.model.activation_checkpointing import choose_checkpointing


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


def describe(model: torch.nn.Module) -> dict[str, object]:
    """Everything about a base that could change the next run."""
    modules = {}
    for name, module in model.named_modules():
        tables = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
        hooks = [list(table.values()) for table in tables]
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        modules[name] = (
            type(module),
            module.training,
            [len(table) for table in hooks],
            getattr(module, "gradient_checkpointing", None),
            getattr(checkpoint, "keywords", None),
            getattr(module, "compute_dtype", None),
        )
    parameters = {
        name: (value.dtype, value.requires_grad, value.detach().clone().view(-1).tolist())
        for name, value in model.named_parameters()
    }
    return {"modules": modules, "parameters": parameters, "config": model.config.to_dict()}


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_detached_base_is_as_it_was_before(
    checkpointing: bool, tiny_settings: base.BaseSettings
) -> None:
    settings = dataclasses.replace(tiny_settings, gradient_checkpointing=checkpointing)
    model = base.load_base(settings, torch.bfloat16, torch.device("cpu"))
    before = describe(model)
    for lora in (adapters.LoraSettings(r=32, dropout=0.5), adapters.LoraSettings(r=4)):
        adapted = adapters.attach(model, lora)
        choose_checkpointing(adapted.get_base_model(), checkpointing, 8)
        adapted.eval()
        assert describe(model) != before
        assert adapters.detach(adapted) is model
        assert describe(model) == before
