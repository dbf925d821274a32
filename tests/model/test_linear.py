"""The fused layer computes what PEFT's layer computes, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit

from mv_lightning.model import adapters, base
from mv_lightning.model.linear import FusedLinear4bit


def layers(model: torch.nn.Module) -> list[FusedLinear4bit]:
    return [module for module in model.modules() if isinstance(module, FusedLinear4bit)]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-5), (True, 2e-2)])
def test_values_and_gradients_are_those_of_peft(
    tiny: torch.nn.Module, autocast: bool, tolerance: float, scale: float
) -> None:
    """With a bias and without, where alpha / r is 1 and where it is not."""
    assert len(layers(tiny)) == 2 * 7
    for index, layer in enumerate(layers(tiny)[:7]):
        layer.scaling["default"] = scale
        if index % 2:
            bias = torch.randn(layer.out_features, generator=torch.Generator().manual_seed(3))
            layer.base_layer.bias = torch.nn.Parameter(bias, requires_grad=False)
        results = []
        for forward in (FusedLinear4bit.forward, PeftLinear4bit.forward):
            x = torch.randn(
                3, 5, layer.in_features, generator=torch.Generator().manual_seed(2)
            ).requires_grad_()
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = forward(layer, x)
            out.float().square().sum().backward()
            gradients = [x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)]
            assert len(gradients) == 3 and all(g.abs().sum() > 0 for g in gradients)
            results.append([out.float(), *gradients])
        for fused, reference in zip(*results, strict=True):
            assert fused.dtype == reference.dtype and fused.shape == reference.shape
            largest = reference.abs().max().item()
            torch.testing.assert_close(fused, reference, atol=tolerance * largest, rtol=0)


def test_dropout_keeps_its_own_path(tiny_settings: base.BaseSettings) -> None:
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32, dropout=0.5))
    layer = layers(adapted)[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(4, layer.in_features)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_the_input_of_the_first_layer_needs_no_gradient(tiny: torch.nn.Module) -> None:
    layer = layers(tiny)[0]
    layer(torch.randn(4, layer.in_features)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)


@pytest.mark.parametrize("index", [0, 6])
def test_the_dtype_of_the_base_is_that_of_the_matmuls(tiny: torch.nn.Module, index: int) -> None:
    """Without autocast; the gradients keep the dtypes of the adapter and of the input."""
    layer = layers(tiny)[index]
    layer.scaling["default"] = 2.0
    bias = torch.randn(layer.out_features, generator=torch.Generator().manual_seed(3))
    layer.base_layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        layer.base_layer.compute_dtype = dtype
        x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(2))
        x.requires_grad_()
        layer.zero_grad()
        out = layer(x)
        assert out.dtype == dtype
        out.float().square().sum().backward()
        gradients = [p.grad for p in layer.parameters() if p.requires_grad]
        results.append([out.float(), x.grad, *gradients])
    for rounded, exact in zip(*reversed(results), strict=True):
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
        largest = exact.abs().max().item()
        torch.testing.assert_close(rounded, exact, atol=2e-2 * largest, rtol=0)


@pytest.mark.filterwarnings("ignore:Merge lora")
@pytest.mark.parametrize("state", ["disabled", "merged"])
def test_a_disabled_or_merged_adapter_adds_nothing(tiny: torch.nn.Module, state: str) -> None:
    layer = layers(tiny)[0]
    x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(2))
    adapted = layer(x)
    if state == "disabled":
        layer.enable_adapters(False)
    else:
        layer.merge()
    assert torch.equal(layer(x), layer.base_layer(x))
    assert not torch.equal(layer(x), adapted)
