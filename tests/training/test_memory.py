"""The probe of the memory and the choice of what is computed again leave the run as it would be
without them."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import compare_phases
from mv_lightning.schema import Batch
from mv_lightning.testing import tiny_options
from mv_lightning.training.memory import MemoryProbe, probe_memory
from mv_lightning.training.module import RowLosses, VerdictModule
from tests.conftest import ROOT

OPTIONS = ("--model.lora.dropout", "0.1", "--trainer.max_epochs", "2")


def fit(base: Path, run: Path, *options: str) -> PhaseFolder:
    main(
        [
            "fit",
            "--config",
            str(ROOT / "configs/phase1.yaml"),
            *tiny_options(base, run),
            *OPTIONS,
            *options,
        ]
    )
    return PhaseFolder(run, 1)


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PhaseFolder:
    return fit(tiny_folder, tmp_path_factory.mktemp("straight"))


def test_the_longest_batch_is_probed_and_nothing_changes(
    straight: PhaseFolder, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []

    def probe(callback: MemoryProbe, trainer: pl.Trainer, module: VerdictModule) -> None:
        seen.append(probe_memory(trainer, module))

    losses = VerdictModule.losses

    def count(module: VerdictModule, batch: Batch) -> RowLosses:
        seen.append(batch)
        return losses(module, batch)

    monkeypatch.setattr(MemoryProbe, "on_train_start", probe)
    monkeypatch.setattr(VerdictModule, "losses", count)
    assert {
        part: found
        for part, found in compare_phases(straight, fit(tiny_folder, tmp_path)).items()
        if found
    } == {}
    probed, again, *trained = seen
    assert torch.equal(probed.ids_T, again.ids_T) and len(trained) == 2 * 12
    assert len(probed.ids_T) == max(len(batch.ids_T) for batch in trained)


def test_some_layers_of_some_batches_computed_again_change_nothing(
    straight: PhaseFolder, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[int] = []
    step = VerdictModule.training_step

    def count(module: VerdictModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = step(module, batch, batch_idx)
        again.append(
            sum(layer.gradient_checkpointing for layer in module.causal_model.base_model.layers)
        )
        return loss

    monkeypatch.setattr(VerdictModule, "training_step", count)
    phase = fit(tiny_folder, tmp_path, "--model.base.gradient_checkpointing", "765")
    assert {part: found for part, found in compare_phases(straight, phase).items() if found} == {}
    assert set(again) == {0, 1}, "choose a number between the lengths of the batches"


def test_a_memory_that_is_too_small_is_told(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(module: VerdictModule, batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")

    monkeypatch.setattr(
        MemoryProbe, "on_train_start", lambda self, trainer, module: probe_memory(trainer, module)
    )
    monkeypatch.setattr(VerdictModule, "losses", full)
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, tmp_path)
    told = capsys.readouterr().err
    assert (
        end.value.code == 2
        and "2 rows" in told
        and "Tried to allocate 20.00 MiB. Set model.base" in told
    )
    assert not (tmp_path / "phase1" / "checkpoints").exists()
