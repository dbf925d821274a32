"""Adapters go to disk and come back; what does not fit is refused by name."""

from __future__ import annotations

import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mv_lightning.model import adapter_files, adapters, base
from mv_lightning.versioning import write_versioned_json
from tests.adapter_metadata import SUMMARIZER, adapter_metadata


def new_model(settings: base.BaseSettings, **lora: int) -> torch.nn.Module:
    model = base.load_base(settings, torch.float32, torch.device("cpu"))
    return adapters.attach(model, adapters.LoraSettings(**{"r": 32, "alpha": 32, **lora}))


METADATA = adapter_metadata(head="linear", summarizer=SUMMARIZER)


def test_round_trip(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapter_files.save(tiny, base.load_tokenizer(tiny_settings), METADATA, tmp_path / "a")
    other = new_model(tiny_settings)
    adapter_files.load(other, tmp_path / "a")
    saved, loaded = adapters.trained_parameters(tiny), adapters.trained_parameters(other)
    assert saved.keys() == loaded.keys() and len(saved) == 28
    for name in saved:
        assert torch.equal(saved[name], loaded[name]), name
    assert adapter_files.read_metadata(tmp_path / "a") == METADATA
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {
        p.name for p in (tmp_path / "a").iterdir()
    }


def test_an_adapter_of_an_earlier_version_has_the_tokens_as_head_and_reads_whole_solutions(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    later = ("head", "summarizer")
    earlier = {name: value for name, value in METADATA.items() if name not in later}
    adapter_files.save(tiny, base.load_tokenizer(tiny_settings), earlier, tmp_path / "a")
    read = adapter_files.read_metadata(tmp_path / "a")
    assert read == {**earlier, "head": "verdict", "summarizer": adapter_files.NO_SUMMARIZER}
    current = {"summarizer": SUMMARIZER}
    adapter_files.check_compatible(earlier, {"summarizer": adapter_files.NO_SUMMARIZER}, "it")
    with pytest.raises(ValueError, match="it belongs to another summarizer"):
        adapter_files.check_compatible(earlier, current, "it")


def test_another_rank_is_refused(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapter_files.save(tiny, base.load_tokenizer(tiny_settings), {}, tmp_path / "a")
    with pytest.raises(ValueError, match=r"r: expected 32, got 16"):
        adapter_files.load(new_model(tiny_settings, r=16), tmp_path / "a")


def test_a_base_that_an_adapter_names_is_not_followed(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapter_files.save(tiny, base.load_tokenizer(tiny_settings), METADATA, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config |= {
        "base_model_name_or_path": "../../elsewhere",
        "auto_mapping": {"base_model_class": "os.system"},
    }
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    adapter_files.load(new_model(tiny_settings), tmp_path / "a")


def test_only_safetensors_are_read(
    tiny: torch.nn.Module, tiny_settings: base.BaseSettings, tmp_path: Path
) -> None:
    adapter_files.save(tiny, base.load_tokenizer(tiny_settings), METADATA, tmp_path / "a")
    weights = tmp_path / "a" / adapter_files.WEIGHTS
    torch.save(load_file(weights), tmp_path / "a" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(
        ValueError, match=r"adapter_model\.safetensors\) in .*adapter_model\.bin is never opened"
    ):
        adapter_files.load(new_model(tiny_settings), tmp_path / "a")


def test_missing_and_unexpected_keys_are_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"expected 2 weights, of which 1 are missing \(b\), and got 1 unexpected ones \(c\)",
    ):
        adapter_files.check_keys({"a", "c"}, {"a", "b"}, "the adapter")


@pytest.mark.parametrize(
    "entry",
    [
        *("base", "base.name", "base.quantization", "base.fingerprint", "tokenizer"),
        *("tokenizer.fingerprint", "lora", "lora.rslora", "prompt.body", "prompt.fingerprint"),
        *("max_length", "steps", "summarizer.fingerprint", "summarizer.above_tokens"),
    ],
)
def test_a_missing_entry_is_named(entry: str, tmp_path: Path) -> None:
    metadata = adapter_metadata(summarizer=dict(SUMMARIZER))
    *outer, last = entry.split(".")
    del reduce(getitem, outer, metadata)[last]
    write_versioned_json(tmp_path / adapter_files.METADATA_FILE, metadata)
    with pytest.raises(ValueError, match=rf"expected .*{re.escape(entry)}.*, got no such entries"):
        adapter_files.read_metadata(tmp_path)


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no adapter in .*verifier\.json is missing"):
        adapter_files.read_metadata(tmp_path)


def test_summaries_belong_to_an_adapter() -> None:
    """An adapter of an earlier release says nothing about them: it reads whole solutions."""
    t5 = {"name": "t5", "fingerprint": "s"}
    for metadata, current in (
        ({}, adapter_files.NO_SUMMARIZER),
        ({"summarizer": adapter_files.NO_SUMMARIZER}, adapter_files.NO_SUMMARIZER),
        ({"summarizer": t5}, t5),
    ):
        adapter_files.check_compatible(metadata, {"summarizer": current}, "the adapter")
    for metadata, current in (({}, t5), ({"summarizer": t5}, adapter_files.NO_SUMMARIZER)):
        with pytest.raises(ValueError, match=r"another summarizer: .*Set data\.summarize"):
            adapter_files.check_compatible(metadata, {"summarizer": current}, "the adapter")
