"""A linear head: its loss and gradients, its file, and what it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mv_lightning.data.batching import pack
from mv_lightning.model import adapter_files, adapters, base, verdict
from mv_lightning.model.linear_head import HEAD_FILE, linear_head, set_head
from mv_lightning.schema import UNLABELLED, EncodedRows


@pytest.fixture
def headed(tiny_settings: base.BaseSettings) -> torch.nn.Module:
    """The tiny base in fp32 with adapters and a head that are not zero."""
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32), head="linear")
    torch.manual_seed(1)
    for name, parameter in adapters.trained_parameters(adapted).items():
        if "lora_B" in name or "head" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


def test_it_starts_at_even_odds_and_is_trained(tiny_settings: base.BaseSettings) -> None:
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    without = adapters.attach(model, adapters.LoraSettings(r=32))
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    adapted = adapters.attach(model, adapters.LoraSettings(r=32), head="linear")
    trained = adapters.trained_parameters(adapted)
    (head,) = (parameter for name, parameter in trained.items() if "head" in name)
    assert len(trained) == len(adapters.trained_parameters(without)) + 1
    assert head.shape == (1, 128) and head.dtype == torch.float32 and not head.any()
    assert adapters.flops_per_token(adapted) == adapters.flops_per_token(without)


def test_the_loss_is_the_binary_cross_entropy(
    headed: torch.nn.Module, siblings: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    batch, model = pack(siblings, np.array([0, 1, 4, 5]), 4), headed.get_base_model()
    batch.labels_B[2] = UNLABELLED
    head = verdict.output_head(model)
    hidden = verdict.hidden_states(model, batch)
    odds = verdict.log_odds(hidden, head, batch, verdict_ids)
    by_hand = hidden[batch.verdict_B] @ linear_head(model).weight[0]
    torch.testing.assert_close(odds, by_hand, atol=1e-6, rtol=1e-5)
    losses = verdict.verdict_loss(hidden, head, batch, verdict_ids)
    expected = F.binary_cross_entropy_with_logits(
        odds, (batch.labels_B == 1).float(), reduction="none"
    )
    assert losses[2] == 0
    kept = [0, 1, 3]
    torch.testing.assert_close(losses[kept], expected[kept], atol=1e-6, rtol=1e-5)
    losses.sum().backward()
    assert all(p.grad.abs().max() > 0 for p in adapters.trained_parameters(headed).values())


def test_the_other_tokens_keep_their_own_loss(
    headed: torch.nn.Module, siblings: EncodedRows, verdict_ids: tuple[int, int]
) -> None:
    batch, model = pack(siblings, np.array([4]), 1), headed.get_base_model()
    head = verdict.output_head(model)
    with torch.no_grad():
        hidden = verdict.hidden_states(model, batch)
        alone = verdict.verdict_loss(hidden, head, batch, verdict_ids)
        loss = verdict.verdict_loss(hidden, head, batch, verdict_ids, prompt_weight=1)
        prompt = F.cross_entropy(model.lm_head(hidden[:-1]), batch.ids_T[1:], reduction="sum")
    torch.testing.assert_close(loss, (alone + prompt) / len(batch.ids_T), atol=1e-5, rtol=1e-5)


def test_round_trip(
    headed: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapter_files.save(headed, base.load_tokenizer(tiny_settings), {}, tmp_path / "a")
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    other = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32), head="linear")
    adapter_files.load(other, tmp_path / "a")
    saved, loaded = adapters.trained_parameters(headed), adapters.trained_parameters(other)
    for name in saved:
        assert torch.equal(saved[name], loaded[name]), name
    assert all("lora_" in name for name in load_file(tmp_path / "a" / adapter_files.WEIGHTS))


def test_another_head_is_refused(
    headed: torch.nn.Module,
    tiny: torch.nn.Module,
    tiny_settings: base.BaseSettings,
    tmp_path: Path,
) -> None:
    tokenizer = base.load_tokenizer(tiny_settings)
    adapter_files.save(headed, tokenizer, {}, tmp_path / "linear")
    adapter_files.save(tiny, tokenizer, {}, tmp_path / "verdict")
    with pytest.raises(ValueError, match=r"expected model\.head=linear, got verdict"):
        adapter_files.load(tiny, tmp_path / "linear")
    with pytest.raises(ValueError, match=r"expected model\.head=verdict, got linear"):
        adapter_files.load(headed, tmp_path / "verdict")
    save_file({"weight": torch.zeros(1, 64)}, tmp_path / "linear" / HEAD_FILE)
    with pytest.raises(ValueError, match=r"shape \(1, 128\), got \(1, 64\)"):
        adapter_files.load(headed, tmp_path / "linear")
    (tmp_path / "linear" / HEAD_FILE).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        adapter_files.load(headed, tmp_path / "linear")


def test_a_base_that_is_used_again_keeps_no_head(tiny_settings: base.BaseSettings) -> None:
    model = base.load_base(tiny_settings, torch.float32, torch.device("cpu"))
    set_head(model, "linear")
    with torch.no_grad():
        linear_head(model).weight.fill_(1)
    set_head(model, "linear")
    assert not linear_head(model).weight.any()
    set_head(model, "verdict")
    assert linear_head(model) is None
    assert not any("verdict_head" in name for name, _ in model.named_parameters())
