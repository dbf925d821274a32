"""A training step of the 8B model on the meta device: shapes, dtypes, FLOPs, launches, waits.

Nothing is computed there, so that the whole model takes seconds on a CPU; the operators are those
that
a GPU would be given.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import PeftModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from mv_lightning.model import adapters, attention, linear, verdict
from mv_lightning.model.activation_checkpointing import enable_checkpointing
from mv_lightning.model.flat_optimizer import _parts
from mv_lightning.model.quantization import quantization_config
from mv_lightning.schema import Batch, Packing

META = torch.device("meta")
LAYERS, HIDDEN, VOCABULARY = 32, 4_096, 128_256
ROWS = 8
PACKING = Packing(
    lengths=(90, *[60] * ROWS, *[235] * ROWS), parents=(-1, *[0] * ROWS, *range(1, ROWS + 1))
)
"""Eight rows of 385 tokens with questions of their own, behind one instruction."""
MAX_LAUNCHES = {False: 202, True: 272}
"""Operators that start a kernel, for each layer of a step, without recomputation and with it."""


@cache
def meta_model(layers: int) -> PeftModel:
    attention.register()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=14_336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    in_4_bits = quantization_config("nf4", torch.bfloat16)
    with META:
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention.NAME
        )
        model = replace_with_bnb_linear(model, ["lm_head"], in_4_bits).requires_grad_(False)
        model.is_loaded_in_4bit = True
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.weight = packed_weight(module)
                module.quant_state = module.weight.quant_state
        return adapters.attach(model, adapters.LoraSettings()).train()


def packed_weight(module: Linear4bit) -> Params4bit:
    size = module.in_features * module.out_features
    state = QuantState(  # with expanded scales, as on a GPU
        torch.empty(size // 64),
        shape=torch.Size((module.out_features, module.in_features)),
        code=torch.empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=torch.bfloat16,
    )
    data = torch.empty(size // 2, 1, dtype=torch.uint8)
    return Params4bit(data, requires_grad=False, quant_state=state, bnb_quantized=True)


def batch() -> Batch:
    tokens = sum(PACKING.lengths)
    ids_T = torch.zeros(tokens, dtype=torch.int64)
    rows_B = torch.arange(ROWS)
    return Batch(ids_T, ids_T, PACKING, rows_B % 2, rows_B, ROWS).to(META)


def step(model: PeftModel, recompute: bool) -> torch.Tensor:
    base, packed_batch = model.get_base_model(), batch()
    if recompute:
        enable_checkpointing(base)
    else:
        base.gradient_checkpointing_disable()
    model.zero_grad()
    hidden_TD = verdict.hidden_states(base, packed_batch)
    head = verdict.output_head(base)
    loss = verdict.verdict_loss(hidden_TD, head, packed_batch, (1, 2)).sum()
    verdict.log_odds(hidden_TD.detach(), head, packed_batch, (1, 2))
    loss.backward()
    return loss


class Operators(TorchDispatchMode):
    """Counts operators that start a kernel, and those that a GPU's host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim() or len(tensors) == 1}
        target = kwargs.get("device")
        if target is not None:
            devices.add(torch.device(target).type)
        if len(devices) > 1 and tensors:
            self.waits[str(func)] += 1
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.waits[str(func)] += 1
        if not func.is_view and not str(func).startswith("aten.empty"):
            self.launches[str(func)] += 1
        return func(*args, **kwargs)


class TensorsFromLists(TorchFunctionMode):
    """Counts tensors that are made on a device from values of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") not in (None, "cpu"):
            self.count += 1
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations of a GPU; the meta device knows no autocast, and the base is in bf16."""
    monkeypatch.setattr(attention, "_fastest", lambda query, settings: attention._varlen)
    monkeypatch.setattr(linear, "JOINED_ON", ("meta",))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


def counted_step(layers: int, recompute: bool) -> tuple[Operators, TensorsFromLists]:
    model = meta_model(layers)
    with TensorsFromLists() as from_lists, Operators() as operators:
        step(model, recompute)
    return operators, from_lists


@pytest.mark.parametrize("recompute", [False, True])
def test_the_whole_model(recompute: bool) -> None:
    model = meta_model(LAYERS)
    # As in all other layers, the gradient of the first layer's input is computed.
    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda *args: args[-1].requires_grad_())
    in_place = {torch.ops.aten.addmm_: lambda out, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with hook, FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss = step(model, recompute)
    assert loss.shape == () and loss.dtype is torch.float32
    trained = adapters.trained_parameters(model)
    assert len(trained) == LAYERS * 7 * 2
    for parameter in trained.values():
        assert parameter.grad.dtype is torch.float32 and parameter.grad.shape == parameter.shape
    assert sum(parameter.numel() for parameter in trained.values()) == 335_544_320

    counts = counter.get_flop_counts()["Global"]
    got = counts[torch.ops.aten.mm] + counts[torch.ops.aten.addmm_]
    head = 4 * ROWS * HIDDEN * VOCABULARY
    tokens = sum(PACKING.lengths)
    expected = adapters.flops_per_token(model) * tokens + head
    forward = (adapters.flops_per_token(model) - 2 * 335_544_320) * tokens / 2
    assert got == expected + (forward if recompute else 0)


def test_the_optimizer_updates_few_buffers() -> None:
    """In place of 448 parameters, and what is copied for a buffer stays small."""
    parameters = list(adapters.trained_parameters(meta_model(LAYERS)).values())
    sizes = [sum(p.numel() for p in part) for part in _parts(parameters)]
    assert sum(sizes) == 335_544_320 and len(sizes) <= 22 and max(sizes) <= 2**24


@pytest.mark.parametrize("recompute", [False, True])
def test_launches_of_a_layer(recompute: bool) -> None:
    few, many = (counted_step(layers, recompute)[0].launches.total() for layers in (2, 4))
    assert (many - few) / 2 <= MAX_LAUNCHES[recompute]


@pytest.mark.parametrize("recompute", [False, True])
def test_no_layer_waits_for_the_device(recompute: bool) -> None:
    """The batch's five tensors and the starts of its spans come from the host; nothing goes
    back."""
    (few, few_lists), (many, many_lists) = (counted_step(n, recompute) for n in (2, 4))
    assert many.waits == few.waits == {"aten._to_copy.default": 5}
    assert many_lists.count == few_lists.count == 1
