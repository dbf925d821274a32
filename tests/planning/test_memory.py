"""The estimate of memory against what autograd keeps, and the choice that follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.model import adapters, attention, verdict
from mv_lightning.model.activation_checkpointing import choose_checkpointing, stored_layers
from mv_lightning.model.base import BaseSettings, load_base, load_config
from mv_lightning.model.families import FAMILIES
from mv_lightning.model.optim import OptimSettings
from mv_lightning.model.quantization import Quantization
from mv_lightning.planning.memory import (
    MemoryItem,
    ModelDims,
    least_checkpointing,
    training_memory,
)
from mv_lightning.schema import Batch, Packing

LORA = adapters.LoraSettings(r=32, alpha=32)
OPTIM = OptimSettings()
LAYERS, TOKENS = 6, 512


class LikeFlash(torch.autograd.Function):
    """Keeps for the backward pass what a fused kernel keeps; its values are of no interest here."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        out = query.transpose(1, 2).clone()
        ctx.save_for_backward(query, key, value, out)
        return out


SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "head_dim": 48},
    "mistral": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 64},
    "smollm3": {},
    "gemma2": {"head_dim": 48, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 48, "tie_word_embeddings": True},
    "phi3": {},
    "olmo2": {},
    "granite": {},
}


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig

    folder = tmp_path_factory.mktemp("base")
    values = {**SIZES, **CONFIGS[request.param]}
    AutoConfig.for_model(request.param, **values).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dims(folder: Path) -> ModelDims:
    return ModelDims.of(load_config(BaseSettings(name=str(folder))))


def kept_bytes(
    folder: Path,
    checkpointing: bool | int,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Bytes that the forward pass leaves behind for the backward pass, each storage once."""
    settings = BaseSettings(
        name=str(folder), weights="random", gradient_checkpointing=checkpointing
    )
    model = load_base(settings, dtype, torch.device("cpu"))
    adapted = adapters.attach(model, LORA)
    monkeypatch.setattr(
        attention,
        "_fastest",
        lambda query, settings: lambda q, k, v, packing, settings: LikeFlash.apply(q, k, v),
    )
    permanent = {p.untyped_storage().data_ptr() for p in adapted.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in permanent:
            kept[place] = tensor
        return tensor

    half = TOKENS // 2
    batch = Batch(
        torch.arange(TOKENS) % 512,
        torch.arange(TOKENS),
        Packing((half, half), (-1, 0)),
        *torch.ones(2, 1).long(),
        1,
    )
    choose_checkpointing(model, checkpointing, TOKENS)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        verdict.hidden_states(model, batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def amount(terms: list[MemoryItem], *starts: str) -> float:
    return sum(term.bytes for term in terms if term.name.startswith(starts))


@pytest.mark.parametrize("checkpointing", [False, TOKENS * 2 // 3, True])
def test_activations_are_those_that_autograd_keeps(
    folder: Path, dims: ModelDims, checkpointing: bool | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final norm's input is kept and has no term; the tolerance is for the rotary tables."""
    settings = BaseSettings(name=str(folder), gradient_checkpointing=checkpointing)
    terms = training_memory(dims, settings, LORA, OPTIM, TOKENS, 1)
    stored = stored_layers(checkpointing, TOKENS, LAYERS)
    expected = amount(terms, f"activations of {stored}", "inputs of") + TOKENS * 4 * dims.hidden
    expected -= stored * TOKENS * int(dims.score_bytes(TOKENS))  # LikeFlash keeps no scores
    assert kept_bytes(folder, checkpointing, monkeypatch) == pytest.approx(expected, rel=0.03)


def test_activations_in_fp32_take_twice_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("llama", **SIZES).save_pretrained(tmp_path)
    settings = BaseSettings(name=str(tmp_path), gradient_checkpointing=False)
    dims = replace(ModelDims.of(load_config(settings)), matmul_bytes=4)
    terms = training_memory(dims, settings, LORA, OPTIM, TOKENS, 1)
    expected = amount(terms, f"activations of {LAYERS}") + TOKENS * 4 * dims.hidden
    kept = kept_bytes(tmp_path, False, monkeypatch, torch.float32)
    assert kept == pytest.approx(expected, rel=0.03)


def test_weights_and_states_are_counted(folder: Path, dims: ModelDims) -> None:
    settings = BaseSettings(name=str(folder), weights="random", gradient_checkpointing=False)
    model = load_base(settings, torch.bfloat16, torch.device("cpu"))
    terms = training_memory(dims, settings, LORA, OPTIM, 0, 1)
    packed = [module.weight for module in model.modules() if type(module).__name__ == "Linear4bit"]
    assert amount(terms, "base, 4 bits") == sum(weight.numel() for weight in packed)
    others = sum(p.numel() for p in model.parameters() if not any(p is weight for weight in packed))
    assert amount(terms, "embeddings") == 2 * others
    trained = adapters.trained_parameters(adapters.attach(model, LORA)).values()
    assert amount(terms, "adapters in fp32") == sum(p.numel() * p.element_size() for p in trained)


def test_several_processes_hold_the_gradients_twice(dims: ModelDims) -> None:
    one, several = (
        amount(training_memory(dims, BaseSettings(), LORA, OPTIM, TOKENS, 1, distributed), "")
        for distributed in (False, True)
    )
    assert several - one == 4 * dims.trained(LORA.r)


@pytest.mark.parametrize(("quantization", "bits"), [("nf4", "4 bits"), ("none", "16 bits")])
def test_only_the_weights_of_the_layers_are_divided(
    dims: ModelDims, quantization: Quantization, bits: str
) -> None:
    whole, parts = (
        training_memory(
            dims, BaseSettings(quantization=quantization), LORA, OPTIM, TOKENS, 2, shards=shards
        )
        for shards in (1, 4)
    )
    assert 4 * amount(parts, f"base, {bits}") == amount(whole, f"base, {bits}")
    base = dims.projections / 2 if quantization == "nf4" else dims.projections * 2
    assert amount(parts, "two gathered") == pytest.approx(base / LAYERS * 2)
    others = ("a projection", "embeddings", "adapters", "their gradients", "state", "inputs")
    others += ("activations", "a layer's", "logits")
    assert amount(parts, *others) == amount(whole, *others)


@given(tokens=st.integers(1, 20_000), gigabytes=st.floats(0.001, 2))
def test_the_least_checkpointing_fits_and_a_token_more_does_not(
    tokens: int, gigabytes: float
) -> None:
    dims = ModelDims(
        family=FAMILIES["llama"],
        layers=30,
        hidden=576,
        inner=1536,
        queries=576,
        keys=192,
        softcapped_heads=0,
        vocabulary=49_152,
        projections=106_168_320,
        largest=884_736,
        other=28_346_688,
        sides=305_280,
    )
    base, budget = BaseSettings(), gigabytes * 1e9

    def peak(setting: bool | int) -> float:
        settings = BaseSettings(gradient_checkpointing=setting)
        return amount(training_memory(dims, settings, LORA, OPTIM, tokens, 8), "")

    found = least_checkpointing(dims, base, LORA, OPTIM, tokens, 8, budget)
    if found is None:
        assert peak(True) > budget
        return
    assert peak(found) <= budget
    if found is not False:
        more = 1 if found is True else found + 1
        assert peak(False) > budget and (more >= tokens or peak(more) > budget)
