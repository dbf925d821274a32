"""What only a GPU can show; skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit

from mv_lightning.data.batching import pack
from mv_lightning.model import adapters, attention, base, verdict
from mv_lightning.model.linear import FusedLinear4bit
from mv_lightning.model.optim import OptimSettings, build_optimizer
from mv_lightning.schema import EncodedRows, Packing
from mv_lightning.testing import run_command, tiny_options

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda")
PACKING = Packing((5, 3, 4, 5, 1), (-1, 0, 0, 2, 2))


@pytest.fixture
def tiny_on_gpu(tiny_settings: base.BaseSettings) -> torch.nn.Module:
    """The tiny base in NF4 and bf16, with adapters whose second matrices are not zero."""
    model = base.load_base(tiny_settings, torch.bfloat16, GPU)
    torch.manual_seed(1)
    adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32)).to(GPU)
    for name, parameter in adapters.trained_parameters(adapted).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    largest = expected.float().abs().max().item()
    torch.testing.assert_close(got.float(), expected.float(), atol=tolerance * largest, rtol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_varlen_attention_equals_matmuls(window: int | None) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("varlen attention needs compute capability 8.0")
    settings, results = attention.ScoreSettings(0.3, window), []
    for attend, dtype in (
        (attention._spans_by_matmul, torch.float32),
        (attention._varlen, torch.bfloat16),
    ):
        rng = torch.Generator(GPU).manual_seed(0)
        tensors = [
            torch.randn(1, heads, 18, 64, generator=rng, device=GPU)
            .bfloat16()
            .to(dtype)
            .requires_grad_()
            for heads in (6, 2, 2)
        ]
        out = attend(*tensors, PACKING, settings)
        out.square().sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in tensors)])
    for expected, got in zip(*results, strict=True):
        close(got, expected, 3e-2)


def test_the_fused_layer_equals_peft(tiny_on_gpu: torch.nn.Module) -> None:
    layers = [module for module in tiny_on_gpu.modules() if isinstance(module, FusedLinear4bit)]
    assert len(layers) == 2 * 7
    for layer in layers[:7]:
        assert not layer.base_layer.weight.quant_state.nested
        results = []
        for forward in (FusedLinear4bit.forward, PeftLinear4bit.forward):
            rng = torch.Generator(GPU).manual_seed(2)
            x = torch.randn(3, 5, layer.in_features, generator=rng, device=GPU).requires_grad_()
            layer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                out = forward(layer, x)
            out.float().square().sum().backward()
            gradients = [p.grad for p in layer.parameters() if p.requires_grad]
            results.append([out.detach(), x.grad, *gradients])
        for fused, reference in zip(*results, strict=True):
            close(fused, reference, 2e-2)


def test_steps_lower_the_loss_and_updates_do_not_wait(
    tiny_on_gpu: torch.nn.Module,
    encoded: EncodedRows,
    verdict_ids: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch raises an error if an operator waits for the GPU; bitsandbytes calls a function."""
    batch = pack(encoded, torch.arange(4).numpy(), 4).to(GPU)
    model = tiny_on_gpu.get_base_model()
    parameters = adapters.trained_parameters(tiny_on_gpu).values()
    optimizer = build_optimizer(parameters, OptimSettings(lr=1e-3))
    waits: list[object] = []
    monkeypatch.setattr("bitsandbytes.optim.optimizer.sync_gpu", waits.append)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            hidden_TD = verdict.hidden_states(model, batch)
            head = verdict.output_head(model)
            loss = verdict.verdict_loss(hidden_TD, head, batch, verdict_ids).mean()
        loss.backward()
        torch.cuda.set_sync_debug_mode("error" if losses else "default")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        losses.append(loss.item())
    assert losses[-1] < losses[0] and not waits
    assert all(parameter.isfinite().all() for parameter in parameters)


def test_a_resumed_phase_ends_as_an_uninterrupted_one(tiny_folder: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_folder, tmp_path / "unused")
    place = options.index("--trainer.accelerator")
    options[place + 1] = "gpu"
    printed = run_command(
        *("verify-resume", "--steps", "5", "--kills", "2", "--folder", str(tmp_path / "runs")),
        *("--config", "configs/phase1.yaml", *options),
    )
    assert "the resumed run equals the uninterrupted one, bit for bit" in printed
