"""The fused layer computes what PEFT's layer computes, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit

from mv_lightning.model import adapters, base, linear
from mv_lightning.model.activation_checkpointing import enable_checkpointing
from mv_lightning.model.linear import FusedLinear4bit
from mv_lightning.schema import Packing

PACKING = Packing(lengths=(4, 5), parents=(-1, 0))


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


def results(model: torch.nn.Module) -> list[torch.Tensor]:
    """Hidden states, and the gradients of their input and of all adapters, of two sums."""
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(1, 9, 128, generator=rng).requires_grad_()
    model.zero_grad()
    for factor in (1, 3):
        base_model = model.get_base_model().model
        hidden = base_model(inputs_embeds=factor * x, packing=PACKING).last_hidden_state
        hidden.pow(3).sum().backward()
    trained = adapters.trained_parameters(model).values()
    return [hidden.detach(), x.grad, *(parameter.grad for parameter in trained)]


@pytest.mark.parametrize("recompute", [False, True])
def test_projections_of_the_same_input_together_equal_each_alone(
    tiny: torch.nn.Module, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bias and a scale of its own for each."""
    tiny.train()
    for index, layer in enumerate(layers(tiny)):
        layer.scaling["default"] = 0.5 + index / 10
        bias = torch.randn(layer.out_features, generator=torch.Generator().manual_seed(index))
        layer.base_layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    if recompute:
        enable_checkpointing(tiny.get_base_model())
    alone = results(tiny)
    calls: list[int] = []
    outputs = linear._outputs
    monkeypatch.setattr(linear, "_outputs", lambda s, x: calls.append(len(s)) or outputs(s, x))
    monkeypatch.setattr(linear, "JOINED_ON", ("cpu",))
    together = results(tiny)
    # Two layers, two passes, each perhaps computed again; what a layer computes last is not.
    assert calls.count(3) == calls.count(2) == 4 * (1 + recompute)
    assert set(calls) == {1, 2, 3}
    for got, expected in zip(together, alone, strict=True):
        assert expected.abs().max() > 0
        largest = expected.abs().max().item()
        torch.testing.assert_close(got, expected, atol=1e-5 * largest, rtol=0)
    for layer in layers(tiny):
        assert layer.shared_input is None or not layer.shared_input._pending


def test_what_is_computed_together_ends_with_the_modules_forward_pass(
    tiny: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "JOINED_ON", ("cpu",))
    mlp = tiny.get_base_model().model.layers[0].mlp
    shared, x = mlp.gate_proj.shared_input, torch.randn(4, 128)
    alone = mlp.gate_proj(x)  # without its module
    assert shared is not None and not shared._pending

    def fail(*_: object) -> None:
        assert list(shared._pending) == [mlp.up_proj]
        raise KeyError

    handle = mlp.gate_proj.register_forward_hook(fail)
    with pytest.raises(KeyError):
        mlp(x)
    handle.remove()
    assert not shared._pending and not shared.applies_to(x)
    mlp.up_proj.enable_adapters(False)
    gates: list[torch.Tensor] = []
    mlp.gate_proj.register_forward_hook(lambda *args: gates.append(args[-1]))
    mlp(x)
    assert torch.equal(gates[0], alone)
