"""Each family of base models: packed and quantized equals transformers' own padded forward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from mv_lightning.model import adapters, base, verdict
from mv_lightning.model.merging import merged_weights
from mv_lightning.schema import Batch, Packing

SIZES = {
    "vocab_size": 160,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 48},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
}
"""By the name of the test: what a family's config sets besides the sizes, nothing left neutral."""
PACKING = Packing(lengths=(7, 6, 9, 11, 5, 8), parents=(-1, 0, 0, 1, 1, 2))
LORA = adapters.LoraSettings(r=32, alpha=16)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A base in a folder, and the adapted models of both sides with the same weights."""

    folder: Path
    settings: base.BaseSettings
    packed: PeftModel
    reference: PeftModel


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    save_random_base(CONFIGS[request.param], folder)
    settings = base.BaseSettings(name=str(folder), gradient_checkpointing=False)
    packed = adapters.attach(base.load_base(settings, torch.float32, CPU), LORA)
    randomize(adapters.trained_parameters(packed).items())
    return Case(folder, settings, packed, reference_model(packed, folder))


def save_random_base(values: dict[str, Any], folder: Path) -> None:
    """Save a model whose norms, biases and matrices are all random."""
    config = AutoConfig.for_model(**{**SIZES, **values})
    model = AutoModelForCausalLM.from_config(config)
    randomize(model.named_parameters())
    model.save_pretrained(folder)


@torch.no_grad()
def randomize(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for _, parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter += 0.2 * noise
        else:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)


def reference_model(packed: PeftModel, folder: Path) -> PeftModel:
    """PEFT on transformers' own eager model, with the dequantized weights and the same adapters."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    targets = sorted(packed.peft_config["default"].target_modules)
    config = LoraConfig(r=LORA.r, lora_alpha=LORA.alpha, target_modules=targets)
    reference = get_peft_model(model, config)
    adapter = adapters.trained_parameters(packed)
    silent = {name: p.detach().clone() for name, p in adapter.items() if "lora_B" in name}
    for name in silent:
        adapter[name].data.zero_()
    dense = merged_weights(packed, torch.float32)
    for name, parameter in reference.get_base_model().named_parameters():
        if ".lora_" not in name:
            parameter.data.copy_(dense[name.replace(".base_layer.", ".")])
    for name, weight in silent.items():
        adapter[name].data.copy_(weight)
    for name, parameter in adapters.trained_parameters(reference).items():
        parameter.data.copy_(adapter[name])
    return reference


def batch(labels: tuple[int, ...] = (1, 0, 1)) -> Batch:
    """Three rows of two questions behind an instruction."""
    generator = torch.Generator().manual_seed(3)
    ids_T = torch.randint(1, SIZES["vocab_size"], (sum(PACKING.lengths),), generator=generator)
    positions = [
        torch.arange(end - length, end)
        for length, end in zip(PACKING.lengths, PACKING.ends, strict=True)
    ]
    rows = torch.arange(len(labels))
    return Batch(ids_T, torch.cat(positions), PACKING, torch.tensor(labels), rows, len(labels))


def padded_logits(reference: PeftModel, packed_batch: Batch) -> torch.Tensor:
    """Logits [B, V] at the last token of every row, each row by itself and padded on the right."""
    spans = packed_batch.ids_T.split(PACKING.lengths)
    rows = [torch.cat([spans[step] for step in PACKING.paths[leaf]]) for leaf in PACKING.leaves]
    ids_BL = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    ones = [torch.ones_like(row) for row in rows]
    mask_BL = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
    logits_BLV = reference(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits
    lasts = torch.tensor([len(row) - 1 for row in rows])
    return logits_BLV[torch.arange(len(rows)), lasts]


def test_packed_equals_padded_in_values_and_gradients(case: Case) -> None:
    false, true = verdict_ids = (17, 42)
    packed_batch = batch()
    model = case.packed.get_base_model()
    case.packed.zero_grad()
    hidden_TD = verdict.hidden_states(model, packed_batch)
    loss_B = verdict.verdict_loss(hidden_TD, model.lm_head, packed_batch, verdict_ids)
    odds_B = verdict.log_odds(hidden_TD, model.lm_head, packed_batch, verdict_ids)
    (loss_B.sum() + odds_B.sum()).backward()

    case.reference.zero_grad()
    logits_BV = padded_logits(case.reference, packed_batch)
    targets_B = torch.tensor(verdict_ids)[packed_batch.labels_B]
    expected_loss_B = F.cross_entropy(logits_BV, targets_B, reduction="none")
    expected_odds_B = logits_BV[:, true] - logits_BV[:, false]
    (expected_loss_B.sum() + expected_odds_B.sum()).backward()

    assert expected_odds_B.std() > 0.01
    torch.testing.assert_close(loss_B, expected_loss_B, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(odds_B, expected_odds_B, atol=2e-4, rtol=2e-4)
    expected = adapters.trained_parameters(case.reference)
    for name, parameter in adapters.trained_parameters(case.packed).items():
        gradient = expected[name].grad
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-3 * scale, rtol=0)


def test_every_projection_has_an_adapter(case: Case) -> None:
    linear = [
        module
        for name, module in case.reference.get_base_model().named_modules()
        if name.endswith("base_layer") or isinstance(module, torch.nn.Linear)
    ]
    adapted = [m for m in case.packed.modules() if type(m).__name__ == "FusedLinear4bit"]
    plain = [m for m in linear if "lora" not in str(type(m))]
    assert adapted and len(adapted) * 3 + 1 == len(plain)  # base layer, A and B of each; the head


def test_a_step_changes_the_adapters(case: Case) -> None:
    from mv_lightning.model.optim import OptimSettings, build_optimizer

    model = case.packed.get_base_model()
    trained = adapters.trained_parameters(case.packed)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = build_optimizer(trained.values(), OptimSettings(lr=1e-3, weight_decay=0))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            hidden_TD = verdict.hidden_states(model, batch())
            loss = verdict.verdict_loss(hidden_TD, model.lm_head, batch(), (17, 42)).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in trained.items():
        assert not torch.equal(parameter, before[name]), name
        parameter.data.copy_(before[name])
