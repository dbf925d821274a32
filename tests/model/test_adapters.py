"""Adapters go to disk and come back; what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mv_lightning.model import adapters, base


def fresh(settings: base.BaseSettings, **lora: int) -> torch.nn.Module:
    model = base.load_base(settings, torch.float32, torch.device("cpu"))
    return adapters.attach(model, adapters.LoraSettings(**{"r": 32, "alpha": 32, **lora}))


CARD = {"base": {"fingerprint": "b"}, "prompt": {"fingerprint": "p"}, "steps": 7}


def test_round_trip(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapters.save(tiny, base.load_tokenizer(tiny_settings), CARD, tmp_path / "a")
    other = fresh(tiny_settings)
    adapters.load(other, tmp_path / "a")
    saved, loaded = adapters.trained_parameters(tiny), adapters.trained_parameters(other)
    assert saved.keys() == loaded.keys() and len(saved) == 28
    for name in saved:
        assert torch.equal(saved[name], loaded[name]), name
    assert adapters.read_metadata(tmp_path / "a") == CARD
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {
        p.name for p in (tmp_path / "a").iterdir()
    }


def test_another_rank_is_refused(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapters.save(tiny, base.load_tokenizer(tiny_settings), {}, tmp_path / "a")
    with pytest.raises(ValueError, match=r"r: 32 there, 16 here"):
        adapters.load(fresh(tiny_settings, r=16), tmp_path / "a")


def test_flops_of_a_token(tiny: torch.nn.Module) -> None:
    # 2 layers; hidden 128, keys and values 64, inner 256; rank 32.
    weights = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
    adapters_ = 2 * 32 * (2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 256))
    assert adapters.flops_per_token(tiny) == 4 * weights + 6 * adapters_


def test_a_base_that_an_adapter_names_is_not_followed(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapters.save(tiny, base.load_tokenizer(tiny_settings), CARD, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config |= {
        "base_model_name_or_path": "../../elsewhere",
        "auto_mapping": {"base_model_class": "os.system"},
    }
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    adapters.load(fresh(tiny_settings), tmp_path / "a")


def test_only_safetensors_are_read(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapters.save(tiny, base.load_tokenizer(tiny_settings), CARD, tmp_path / "a")
    weights = tmp_path / "a" / adapters.WEIGHTS
    torch.save(load_file(weights), tmp_path / "a" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(
        ValueError, match=r"adapter_model\.safetensors .*adapter_model\.bin is never opened"
    ):
        adapters.load(fresh(tiny_settings), tmp_path / "a")


def test_missing_and_unexpected_keys_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"1 of 2 weights are missing \(b\), 1 are not known here \(c\)"
    ):
        adapters.check_keys({"a", "c"}, {"a", "b"}, "the adapter")


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no adapter in .*verifier\.json is missing"):
        adapters.read_metadata(tmp_path)


@pytest.mark.parametrize("wrong", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="adapters need"):
        adapters.LoraSettings(**wrong)
