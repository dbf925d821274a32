"""The average of adapters is the mean of their weights; unrelated adapters are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mv_lightning.artifacts.adapter_averages import MAX_DEVIATION, average_adapters
from mv_lightning.model.adapter_files import read_metadata
from mv_lightning.versioning import write_versioned_json
from tests.adapter_metadata import SUMMARIZER, adapter_metadata

SHAPES = {"q_proj": (12, 20), "down_proj": (20, 16)}
RANK = 4


def key(module: str, matrix: str) -> str:
    return f"base_model.model.model.layers.0.{module}.lora_{matrix}.weight"


def weights(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (out_width, in_width) in SHAPES.items():
        tensors[key(module, "A")] = torch.randn(RANK, in_width, generator=draw)
        tensors[key(module, "B")] = torch.randn(out_width, RANK, generator=draw)
    return tensors


def moved(origin: dict[str, torch.Tensor], seed: int, distance: float) -> dict[str, torch.Tensor]:
    step = weights(seed)
    return {name: tensor + distance * step[name] for name, tensor in origin.items()}


def leave(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    write_versioned_json(folder / "verifier.json", adapter_metadata(**changes))
    for name in ("adapter_config.json", "tokenizer.json", "calibration.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def phases(tmp_path: Path) -> list[Path]:
    """Three adapters, each trained from the one before it."""
    tensors, folders = weights(0), []
    for phase in range(3):
        tensors = moved(tensors, phase + 1, 0.2)
        folders.append(leave(tmp_path / f"phase{phase}", tensors, steps=10 * (phase + 1)))
    return folders


def test_every_weight_is_the_mean(phases: list[Path], tmp_path: Path) -> None:
    average_adapters(phases, tmp_path / "out")
    members = [load_file(folder / "adapter_model.safetensors") for folder in phases]
    average = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert average.keys() == members[0].keys()
    for name, tensor in average.items():
        expected = np.mean([weights[name].numpy() for weights in members], axis=0)
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_the_metadata_name_the_members_and_no_calibration_is_taken_over(
    phases: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    average_adapters(phases, out)
    metadata = read_metadata(out)
    members = metadata.pop("average_of")
    assert metadata == adapter_metadata(steps=30)
    assert [member["folder"] for member in members] == list(map(str, phases))
    assert len({member["sha256"] for member in members}) == 3
    assert {path.name for path in out.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "verifier.json",
    }


def test_the_deviation_is_that_of_the_whole_matrices(phases: list[Path], tmp_path: Path) -> None:
    deviation = average_adapters(phases, tmp_path / "out")
    members = [load_file(folder / "adapter_model.safetensors") for folder in phases]
    average = load_file(tmp_path / "out" / "adapter_model.safetensors")
    squares = np.zeros(2)
    for module in SHAPES:
        key_A, key_B = key(module, "A"), key(module, "B")
        products = [(weights[key_B] @ weights[key_A]).numpy() for weights in members]
        mean = np.mean(products, axis=0)
        difference = (average[key_B] @ average[key_A]).numpy() - mean
        squares += [np.square(difference).sum(), np.square(mean).sum()]
    assert deviation == pytest.approx(np.sqrt(squares[0] / squares[1]), rel=1e-4)
    assert 0.005 < deviation < MAX_DEVIATION


def test_where_the_first_matrices_are_equal_the_average_is_exact(tmp_path: Path) -> None:
    first, second = weights(0), weights(0)
    for module in SHAPES:
        second[key(module, "B")] = weights(1)[key(module, "B")]
    folders = [leave(tmp_path / "a", first), leave(tmp_path / "b", second)]
    assert average_adapters(folders, tmp_path / "out") < 1e-6


def test_the_average_of_equal_adapters_is_the_adapter(tmp_path: Path) -> None:
    folders = [leave(tmp_path / name, weights(0)) for name in "abc"]
    assert average_adapters(folders, tmp_path / "out") < 1e-6
    average = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, tensor in weights(0).items():
        assert torch.equal(average[name], tensor)


def test_untrained_adapters_have_an_average(tmp_path: Path) -> None:
    untrained = {
        name: torch.zeros_like(tensor) if "lora_B" in name else tensor
        for name, tensor in weights(0).items()
    }
    folders = [leave(tmp_path / name, untrained) for name in "ab"]
    assert average_adapters(folders, tmp_path / "out") == 0


@pytest.mark.parametrize("count", [2, 5])
def test_adapters_without_a_common_origin_are_refused(tmp_path: Path, count: int) -> None:
    folders = [leave(tmp_path / str(seed), weights(seed)) for seed in range(count)]
    with pytest.raises(ValueError, match=r"common origin.* differ by \d\d%.*`ensemble` instead"):
        average_adapters(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"base.fingerprint": "other"}, "base"),
        ({"prompt.fingerprint": "other", "head": "linear"}, "prompt, head"),
        ({"summarizer": SUMMARIZER}, "summarizer"),
        ({"lora.alpha": 16}, "lora.alpha"),
        ({"lora.rslora": True}, "lora.rslora"),
    ],
)
def test_adapters_that_differ_in_kind_are_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    folders = [leave(tmp_path / "a", weights(0)), leave(tmp_path / "b", weights(0), **changes)]
    with pytest.raises(ValueError, match=rf"a and .*b, which differ in {named}\."):
        average_adapters(folders, tmp_path / "out")


def test_the_name_and_dropout_of_training_may_differ(tmp_path: Path) -> None:
    changes = {"base.name": "elsewhere/b", "lora.dropout": 0.1}
    folders = [leave(tmp_path / "a", weights(0)), leave(tmp_path / "b", weights(0), **changes)]
    average_adapters(folders, tmp_path / "out")


def test_other_adapted_matrices_are_refused(tmp_path: Path) -> None:
    fewer = {name: tensor for name, tensor in weights(0).items() if "down_proj" not in name}
    folders = [leave(tmp_path / "a", weights(0)), leave(tmp_path / "b", fewer)]
    with pytest.raises(ValueError, match="expected 4 weights, of which 2 are missing"):
        average_adapters(folders, tmp_path / "out")


def test_damaged_weights_are_refused(phases: list[Path], tmp_path: Path) -> None:
    file = phases[1] / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"phase1/adapter_model.safetensors cannot be read"):
        average_adapters(phases, tmp_path / "out")


def test_one_adapter_has_no_average(phases: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected two adapters or more to average, got 1"):
        average_adapters(phases[:1], tmp_path / "out")


def test_a_linear_head_is_averaged(tmp_path: Path) -> None:
    folders = []
    for name, value in (("a", 1.0), ("b", 4.0)):
        folder = leave(tmp_path / name, weights(0), head="linear")
        save_file({"weight": torch.full((1, 6), value)}, folder / "verdict_head.safetensors")
        folders.append(folder)
    average_adapters(folders, tmp_path / "out")
    head = load_file(tmp_path / "out" / "verdict_head.safetensors")["weight"]
    assert torch.equal(head, torch.full((1, 6), 2.5))


def test_the_same_adapters_give_the_same_files(phases: list[Path], tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        average_adapters(phases, tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert json.loads(written[0]["verifier.json"])["steps"] == 30
