"""FLOPs against the model's own count, and the formulas of communication by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mv_lightning.model.adapters import LoraSettings, flops_per_token
from mv_lightning.model.base import BaseSettings, load_config
from mv_lightning.planning.memory import ModelDims
from mv_lightning.planning.speed import (
    all_gather_seconds,
    all_reduce_seconds,
    dequantization_seconds,
    evaluation_seconds,
    micro_batch_seconds,
)
from tests.planning.made_training import TRAINING, cluster

A100 = cluster("A100-40").device


def test_flops_are_those_of_the_adapted_model(
    tiny: torch.nn.Module, tiny_settings: BaseSettings
) -> None:
    dims = ModelDims.of(load_config(tiny_settings))
    training = replace(TRAINING, dims=dims, lora=LoraSettings(r=32, alpha=32))
    assert training.needed_flops == training.flops(dims.layers, 0) == flops_per_token(tiny)


def test_recomputed_layers_are_computed_twice() -> None:
    forward = 2 * (6_979_321_856 + 335_544_320) + 32 * 4 * 4_096 * 385 / 2
    assert TRAINING.forward_flops(385) == forward
    assert TRAINING.flops(0, 385) - TRAINING.flops(32, 385) == forward
    assert TRAINING.flops(24, 385) - TRAINING.flops(32, 385) == forward / 4


def test_attention_is_three_times_that_of_a_forward_pass() -> None:
    forward = TRAINING.forward_flops(1_600) - TRAINING.forward_flops(0)
    assert TRAINING.flops(32, 1_600) - TRAINING.needed_flops == 3 * forward


def test_the_loss_of_the_prompt_needs_the_head_at_every_token() -> None:
    more = replace(TRAINING, prompt_loss=True).flops(0, 385) - TRAINING.flops(0, 385)
    assert more == 6 * 4_096 * 128_256


def test_seconds_of_a_micro_batch_by_hand() -> None:
    rate = 0.4 * 312e12
    dequantize = 4.5 * 6_979_321_856 / (0.8 * 1_555e9)
    assert dequantization_seconds(TRAINING, A100) == pytest.approx(dequantize)
    attention = 32 * 4 * 4_096 * 300 / 2
    flops = 6 * 6_979_321_856 + 8 * 335_544_320 + 4 * attention
    seconds = 1_540 * flops / rate + 3 * dequantize
    assert micro_batch_seconds(TRAINING, A100, 1_540, 300, True) == pytest.approx(seconds)
    flops = 4 * 6_979_321_856 + 6 * 335_544_320 + 3 * attention
    seconds = 1_540 * flops / rate + 2 * dequantize
    assert micro_batch_seconds(TRAINING, A100, 1_540, 300, False) == pytest.approx(seconds)
    flops = 2 * (6_979_321_856 + 335_544_320) + attention
    batches = 3  # of 4,096 tokens
    seconds = 12_288 * flops / rate + batches * dequantize
    assert evaluation_seconds(TRAINING, A100, 12_288, 300, 4_096) == pytest.approx(seconds)


def test_nothing_is_dequantized_where_nothing_is_quantized() -> None:
    unquantized = replace(TRAINING, base=BaseSettings(quantization="none"))
    assert dequantization_seconds(unquantized, A100) == 0


def test_communication_by_hand() -> None:
    """The gradients of 335,544,320 weights in fp32: 7/4 of their 1.342 GB at 240 GB/s."""
    size = 4 * TRAINING.trained
    assert size == 1_342_177_280
    bandwidth = cluster("A100-40", gpus=8).bytes_per_s(across_nodes=False)
    assert bandwidth == 0.8 * 300e9
    assert all_reduce_seconds(size, 8, bandwidth) == pytest.approx(0.009787, rel=1e-3)
    assert all_reduce_seconds(size, 1, bandwidth) == 0
    assert all_reduce_seconds(size, 2, bandwidth) == pytest.approx(size / bandwidth)
    assert all_gather_seconds(8e9, 8, 1e9) == 7


def test_a_ring_is_as_fast_as_its_slowest_link() -> None:
    several = cluster("A100-40", gpus=8, nodes=2, network=12.5e9)  # 100 Gbit/s
    assert several.bytes_per_s(across_nodes=False) == 0.8 * 300e9
    assert several.bytes_per_s(across_nodes=True) == 0.8 * 12.5e9
    faster = cluster("T4", gpus=4, nodes=2, network=50e9)
    assert faster.bytes_per_s(True) == faster.bytes_per_s(False) == 0.8 * 15.8e9


def test_every_node_has_as_many_gpus_of_a_sharded_base() -> None:
    machines = cluster("L40", gpus=4, nodes=3)
    assert machines.shards(3) == [1, 3]
    assert machines.shards(6) == [2, 3]
    assert machines.shards(7) == []
    assert machines.shards(12) == [4]
    assert machines.shards(20) == [4]  # of five nodes: more than there are
