"""A run that shares base and tokens has the result of one in a process of its own, bit for bit."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.data.summaries import Summarizer, SummarySettings
from mv_lightning.model import adapters, base
from mv_lightning.model.adapter_files import WEIGHTS
from mv_lightning.testing import run_forked, tiny_options
from mv_lightning.training import sharing
from mv_lightning.training.cli import run
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.resume_checkpoint import STOP_SIGNALS
from mv_lightning.training.sharing import SharedResources
from tests.conftest import ROOT

TEST_OPTIONS = ("--model.init_from=null", "--data.adversarial_rows=0")


@pytest.fixture
def one_thread():
    """As in the processes that are compared with: sums are split over the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[base.BaseSettings]:
    """The bases that were loaded, one entry for each time."""
    loads: list[base.BaseSettings] = []

    def load_base(settings: base.BaseSettings, *args: Any) -> PreTrainedModel:
        loads.append(settings)
        return base.load_base(settings, *args)

    monkeypatch.setattr(sharing, "load_base", load_base)
    return loads


def fit_args(base_folder: Path, run_folder: Path, *options: str) -> list[str]:
    config = str(ROOT / "configs/phase1.yaml")
    return ["fit", "--config", config, *tiny_options(base_folder, run_folder), *options]


def test_nothing_leaks_from_one_run_into_the_next(
    tiny_folder: Path, tmp_path: Path, one_thread: None, loaded: list[base.BaseSettings]
) -> None:
    compared = ("--model.lora.dropout", "0.1", "--trainer.max_steps", "3")
    other = ("--model.lora.r", "64", "--model.optim.lr", "0.01", "--seed_everything", "9")
    other += ("--model.head", "linear")
    alone, shared = PhaseFolder(tmp_path / "alone", 1), PhaseFolder(tmp_path / "shared", 1)
    args = fit_args(tiny_folder, alone.run, *compared)
    run_forked(args, tmp_path / "log.txt")
    run_forked(["test", *args[1:], *TEST_OPTIONS], tmp_path / "log.txt")

    resources = SharedResources(tmp_path / "tokens", tmp_path / "summaries")
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    run(fit_args(tiny_folder, tmp_path / "before", *other), resources)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
    gc.collect()
    assert not any(type(value) is VerdictModule for value in gc.get_objects())
    args = fit_args(tiny_folder, shared.run, *compared)
    run(args, resources)
    run(["test", *args[1:], *TEST_OPTIONS], resources)
    assert [settings.name for settings in loaded] == [str(tiny_folder)]
    for file in ("adapter", "best"):
        weights = [(folder.path / file / WEIGHTS).read_bytes() for folder in (alone, shared)]
        assert weights[0] == weights[1]
    for stage in ("val", "test"):
        rows = [folder.evaluated_rows(stage).read_text() for folder in (alone, shared)]
        assert rows[0] == rows[1] and rows[0].count("\n") > 8
    # The rows of all runs are tokenised once, and no run has tokens of its own.
    names = sorted(path.name.partition("-")[0] for path in (tmp_path / "tokens").iterdir())
    assert names == ["test", "train", "val"] and not shared.tokens.exists()


@dataclass
class Lent:
    """The attributes of a module and a data module that are lent."""

    load_base: Callable[..., PreTrainedModel] | None = None
    tokens: Path | None = None
    adapted: PeftModel | None = None
    summarizer: Summarizer = field(default_factory=lambda: Summarizer(SummarySettings("t5")))


def test_a_run_that_fails_or_differs_loads_the_base_again(
    tiny_settings: base.BaseSettings, tmp_path: Path, loaded: list[base.BaseSettings]
) -> None:
    resources = SharedResources(tmp_path, tmp_path / "summaries")

    def use(settings: base.BaseSettings, dtype: torch.dtype, succeeds: bool = True) -> int:
        lent = Lent()
        resources.lend(lent, lent)  # type: ignore[arg-type]
        assert lent.load_base is not None and lent.tokens == tmp_path
        assert lent.summarizer.folder == tmp_path / "summaries"
        model = lent.load_base(settings, dtype, torch.device("cpu"))
        assert model.dtype == dtype
        lent.adapted = adapters.attach(model, adapters.LoraSettings(r=4))
        if succeeds:
            resources.take_back(lent)  # type: ignore[arg-type]
            assert lent.adapted is None
        return len(loaded)

    assert [use(tiny_settings, torch.bfloat16) for _ in range(2)] == [1, 1]
    assert [use(tiny_settings, torch.float32) for _ in range(2)] == [2, 2]
    unquantized = replace(tiny_settings, quantization="none")
    assert [use(unquantized, torch.float32) for _ in range(2)] == [3, 3]
    assert use(unquantized, torch.float32, succeeds=False) == 3
    assert [use(unquantized, torch.float32) for _ in range(2)] == [4, 4]
