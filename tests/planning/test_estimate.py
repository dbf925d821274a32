"""What fits on a GPU depends on its memory and on its attention."""

from __future__ import annotations

from dataclasses import replace

from transformers import LlamaConfig

from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.estimate import estimate_phase
from mv_lightning.planning.memory import ModelDims

CONFIG = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4_096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)


def test_larger_gpus_recompute_less() -> None:
    estimate = estimate_phase(
        CONFIG, BaseSettings(), LoraSettings(), OptimSettings(), tokens=16_384, rows=8
    )
    assert estimate.trained == 335_544_320
    assert estimate.checkpoint_bytes > estimate.adapter_bytes == 4 * estimate.trained
    assert estimate.peak_bytes == sum(item.bytes for item in estimate.items)
    by_name = {gpu.gpu: gpu for gpu in estimate.gpus}
    assert by_name["H100"].fits and by_name["H100"].memory_gb == 85.0
    large, small = (by_name[name].least_checkpointing for name in ("A100-40", "L4"))
    assert type(large) is type(small) is int and large > small


def test_trained_parameters_are_those_of_the_reports_table() -> None:
    """Llama-3-8B, from its config alone."""
    dims = ModelDims.of(CONFIG)
    trained = {rank: dims.trained(rank) for rank in (16, 32, 64, 128)}
    assert trained == {16: 41_943_040, 32: 83_886_080, 64: 167_772_160, 128: 335_544_320}


def test_gpus_without_varlen_keep_repeated_keys() -> None:
    dims = ModelDims.of(CONFIG)
    repeated = replace(dims, repeats_keys=True)
    # Keys and values of 32 heads in place of 8, 128 numbers each, in 16 bits.
    assert repeated.layer_bytes(128) - dims.layer_bytes(128) == 2 * 2 * (32 - 8) * 128
