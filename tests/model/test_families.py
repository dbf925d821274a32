"""Each family of base models: packed and quantized equals transformers' own padded forward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from mv_lightning.model import adapters, base, verdict
from mv_lightning.model.activation_checkpointing import enable_checkpointing
from mv_lightning.model.families import check_dtype, check_family
from mv_lightning.model.generate import generate
from mv_lightning.model.linear import FusedLinear4bit
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
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "short_factor": [1.0 + index / 8 for index in range(12)],
    "long_factor": [2.0 + index / 4 for index in range(12)],
    "partial_rotary_factor": 0.75,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 48},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 5, "head_dim": 40},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 48, "attention_bias": True},
    "smollm3": {
        "model_type": "smollm3",
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 0, 1, 0],
        "use_sliding_window": True,
        "sliding_window": 6,
        "mlp_bias": True,
    },
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 48,
        "sliding_window": 5,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
        "tie_word_embeddings": True,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "head_dim": 48,
        "sliding_window": 5,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 20,
        "final_logit_softcapping": 1.5,
        "tie_word_embeddings": True,
    },
    "phi3": {
        "model_type": "phi3",
        "sliding_window": 6,
        "original_max_position_embeddings": 64,
        "rope_parameters": LONG_ROPE,
    },
    "olmo2": {"model_type": "olmo2"},
    "granite": {
        "model_type": "granite",
        "attention_bias": True,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.5,
    },
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
    loss_B = verdict.verdict_loss(hidden_TD, verdict.output_head(model), packed_batch, verdict_ids)
    odds_B = verdict.log_odds(hidden_TD, verdict.output_head(model), packed_batch, verdict_ids)
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
    plain = AutoModelForCausalLM.from_pretrained(case.folder)
    linear = {name for name, m in plain.named_modules() if isinstance(m, torch.nn.Linear)}
    layers = case.packed.get_base_model().named_modules()
    adapted = {name for name, module in layers if isinstance(module, FusedLinear4bit)}
    assert adapted == linear - {"lm_head"}


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
            loss = verdict.verdict_loss(
                hidden_TD, verdict.output_head(model), batch(), (17, 42)
            ).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in trained.items():
        assert not torch.equal(parameter, before[name]), name
        parameter.data.copy_(before[name])


@pytest.mark.parametrize(
    ("model_type", "values", "reason"),
    [
        ("t5", {}, "encoder-decoder"),
        ("mamba", {}, "recurrent state"),
        ("jamba", {}, "recurrent state"),
        ("qwen3_next", {}, "recurrent state"),
        ("lfm2", {}, "recurrent state"),
        ("mixtral", {}, "mixture of experts"),
        ("qwen3_moe", {}, "mixture of experts"),
        ("deepseek_v3", {}, "mixture of experts"),
        ("gemma3", {}, "images"),
        ("gpt2", {}, "not tested with this architecture"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
    ],
)
def test_what_cannot_be_right_is_refused(
    model_type: str, values: dict[str, Any], reason: str
) -> None:
    config = AutoConfig.for_model(model_type, **values)
    with pytest.raises(ValueError, match=rf"got 'some/base' of type '{model_type}': .*{reason}"):
        check_family(config, "some/base")


def test_what_overflows_in_fp16_is_refused() -> None:
    config = AutoConfig.for_model("gemma2")
    check_dtype(config, torch.bfloat16, "some/base")
    with pytest.raises(ValueError, match=r"got 16-mixed: the activations of Gemma 2 exceed"):
        check_dtype(config, torch.float16, "some/base")


def test_rows_that_would_change_the_rotary_frequencies_of_others_are_refused(
    tmp_path: Path,
) -> None:
    values = CONFIGS["phi3"]
    short = {**values, "original_max_position_embeddings": 20}
    save_random_base(short, tmp_path)
    settings = base.BaseSettings(name=str(tmp_path), gradient_checkpointing=False)
    model = base.load_base(settings, torch.float32, CPU)
    with pytest.raises(ValueError, match=r"at most 20 tokens, got one of 24: .*data\.max_length"):
        verdict.hidden_states(model, batch())


def test_flops_are_those_of_the_matmuls(case: Case) -> None:
    model = case.packed.get_base_model()
    # The first layer's input is trained in no run; here it is, so that all layers cost the same.
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: output.requires_grad_()
    )
    in_place = {torch.ops.aten.addmm_: lambda out, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with handle, FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        verdict.hidden_states(model, batch()).sum().backward()
    matmuls = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
    counted = sum(counter.get_flop_counts()["Global"].get(op, 0) for op in matmuls)
    expected = adapters.flops_per_token(case.packed) * sum(PACKING.lengths)
    assert counted == expected


def test_recomputing_activations_changes_nothing(case: Case) -> None:
    trained, gradients = adapters.trained_parameters(case.packed), []
    model = case.packed.get_base_model()
    for recompute in (False, True):
        case.packed.zero_grad()
        if recompute:
            enable_checkpointing(model)
        verdict.hidden_states(model, batch()).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in trained.values()])
    model.gradient_checkpointing_disable()
    assert all(map(torch.equal, *gradients))


def test_generation_begins_with_the_token_of_the_packed_pass(case: Case) -> None:
    model = case.packed.get_base_model().eval()
    with torch.no_grad():
        new_BW = generate(model, batch(), pad_id=0)
        hidden_TD = verdict.hidden_states(model, batch())
        logits_BV = verdict.output_head(model).logits(hidden_TD[batch().verdict_B])
    model.train()
    assert torch.equal(new_BW[:, 0], logits_BV.argmax(-1))
