"""The callback that saves and stops, by itself: no training run."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.model.adapters import trained_parameters
from mv_lightning.model.optim import OptimSettings
from mv_lightning.training.checkpoint_files import checkpoints
from mv_lightning.training.resume_checkpoint import (
    STOP_SIGNALS,
    ResumeCheckpoint,
    checkpoint_bytes,
)
from mv_lightning.training.settings import RunSettings
from mv_lightning.training.stopping import TrainingStopped


class StubTrainer(SimpleNamespace):
    """What the callback reads of a trainer, at one optimizer step."""

    def __init__(self, step: int, **more: Any) -> None:
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0))
        super().__init__(
            global_step=step,
            accumulate_grad_batches=2,
            world_size=1,
            global_rank=0,
            is_global_zero=True,
            datamodule=SimpleNamespace(batch_size=3, compares_rows=False),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            limit_train_batches=1.0,
            fit_loop=loop,
            saved=[],
            **more,
        )

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        assert weights_only is False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.saved.append(path.name)


MODULE = SimpleNamespace(device=torch.device("cpu"))


def callback_in(folder: Path, **more: Any) -> ResumeCheckpoint:
    """Saves every 3 steps and keeps 2 checkpoints."""
    run = RunSettings(save_every=3, keep=2)
    return ResumeCheckpoint(PhaseFolder(folder, 1), run, {"lr": 0.1}, steps_before=7, **more)


def test_it_saves_once_at_the_steps_that_are_due(tmp_path: Path) -> None:
    callback = callback_in(tmp_path)
    saved = []
    for batch_idx in range(25):
        # The step is complete once its second micro-batch is.
        trainer = StubTrainer(step=batch_idx // 2)
        callback.on_train_batch_start(trainer, MODULE, None, batch_idx)
        callback.on_train_batch_start(trainer, MODULE, None, batch_idx)
        saved += [(batch_idx, name) for name in trainer.saved]
    assert saved == [(2 * step, f"step-{step:07d}.ckpt") for step in (3, 6, 9, 12)]
    kept = [path.name for path in checkpoints(PhaseFolder(tmp_path, 1).checkpoints)]
    assert kept == ["step-0000012.ckpt", "step-0000009.ckpt"]


@pytest.mark.parametrize(("max_time", "reason"), [(None, "interrupted"), ("00:00:00:00", "time")])
def test_a_stop_takes_effect_at_the_next_complete_step(
    tmp_path: Path, max_time: str | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = callback_in(tmp_path, max_time=max_time)
    if max_time is None:
        callback._remember(signal.SIGTERM, None)
        assert capsys.readouterr().out.startswith("\nSIGTERM: stopping after this optimizer step")
    trainer = StubTrainer(step=4)
    if callback._timer is not None:
        callback._timer.on_train_start(trainer, MODULE)
    callback.on_train_batch_start(trainer, MODULE, None, 7)
    assert trainer.saved == []
    with pytest.raises(TrainingStopped) as stopped:
        callback.on_train_batch_start(trainer, MODULE, None, 8)
    assert trainer.saved == ["step-0000004.ckpt"]
    stop = stopped.value
    signal_number = signal.SIGTERM if max_time is None else None
    assert (stop.reason, stop.step, stop.signal_number) == (reason, 4, signal_number)
    assert callback._reason == reason, "it is stored in the checkpoint"
    with pytest.raises(TrainingStopped):
        callback.on_train_batch_start(trainer, MODULE, None, 8)
    assert trainer.saved == ["step-0000004.ckpt"], "a step is saved once"


@pytest.mark.parametrize(("here", "elsewhere"), [(True, False), (False, True), (False, False)])
def test_all_processes_stop_when_one_gets_a_signal(here: bool, elsewhere: bool) -> None:
    def reduce(flag: bool, all: bool = True) -> bool:
        return (flag and elsewhere) if all else (flag or elsewhere)

    callback = callback_in(Path("unused"))
    if here:
        callback._remember(signal.SIGUSR1, None)
    trainer = StubTrainer(step=4)
    trainer.world_size = 2
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=reduce)
    expected = "interrupted" if here or elsewhere else None
    assert callback._requested_stop(trainer) == expected


def test_the_first_step_is_saved_where_every_step_is(tmp_path: Path) -> None:
    run = RunSettings(save_every=1)
    callback = ResumeCheckpoint(PhaseFolder(tmp_path, 1), run, {}, steps_before=0)
    trainer = StubTrainer(step=1)
    callback.on_train_batch_start(trainer, MODULE, None, 2)
    assert trainer.saved == ["step-0000001.ckpt"]


@pytest.mark.parametrize(("seconds", "reason"), [(0.5, None), (0, "time"), (-1, "time")])
def test_the_time_is_used_to_the_last(
    seconds: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.callbacks.Timer.time_remaining", lambda _: seconds)
    callback = callback_in(Path("unused"), max_time={"hours": 1})
    assert callback._requested_stop(StubTrainer(step=4)) == reason


def test_without_a_request_time_that_is_left_stops_nothing(tmp_path: Path) -> None:
    callback = callback_in(tmp_path, max_time={"hours": 1})
    trainer = StubTrainer(step=3)
    callback.on_train_batch_start(trainer, MODULE, None, 6)  # the timer has not started
    callback._timer.on_train_start(trainer, MODULE)
    callback.on_train_batch_start(trainer, MODULE, None, 6)
    assert trainer.saved == ["step-0000003.ckpt"]


@pytest.mark.parametrize(
    ("signalled", "accumulating", "step", "saved"),
    [
        (False, False, 5, ["step-0000005.ckpt"]),
        (False, True, 5, []),
        (False, False, 0, []),
        (True, False, 5, ["step-0000005.ckpt"]),
    ],
)
def test_the_end_of_training_is_saved_where_a_step_is_complete(
    tmp_path: Path, signalled: bool, accumulating: bool, step: int, saved: list[str]
) -> None:
    callback = callback_in(tmp_path)
    trainer = StubTrainer(step, max_steps=5, max_epochs=None, early_stopping_callbacks=[])
    trainer.fit_loop._should_accumulate = lambda: accumulating
    if signalled:
        callback._remember(signal.SIGTERM, None)
        with pytest.raises(TrainingStopped) as stopped:
            callback.on_train_end(trainer, MODULE)
        assert (stopped.value.step, stopped.value.signal_number) == (5, signal.SIGTERM)
    else:
        callback.on_train_end(trainer, MODULE)
    assert trainer.saved == saved
    assert callback._reason == ("planned" if saved else None)


@pytest.mark.parametrize("missing", [0, 1])
def test_the_disk_must_have_room_for_the_checkpoints_and_two_adapters(
    tiny: torch.nn.Module, tmp_path: Path, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One checkpoint more than are kept, less those that are there already."""
    folder = PhaseFolder(tmp_path, 1)
    folder.checkpoints.mkdir(parents=True)
    folder.checkpoint(1).write_bytes(b"x" * 1_000)
    leftover = folder.checkpoints / ".step-0000002.ckpt.tmp"
    leftover.write_text("")
    module = SimpleNamespace(adapted=tiny, optim_settings=OptimSettings())
    adapters = sum(p.nbytes for p in trained_parameters(tiny).values())
    needed = 3 * checkpoint_bytes(module) + 2 * adapters - 1_000
    free = SimpleNamespace(free=needed - missing)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    callback = callback_in(tmp_path)
    try:
        if missing:
            with pytest.raises(ValueError, match=r"for 3 checkpoints and two adapters"):
                callback.on_train_start(StubTrainer(step=0), module)
        else:
            callback.on_train_start(StubTrainer(step=0), module)
        assert not leftover.exists() and folder.checkpoint(1).exists()
        assert all(signal.getsignal(number) == callback._remember for number in STOP_SIGNALS)
    finally:
        callback.teardown(StubTrainer(step=0), module, "fit")
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_what_lightning_does_not_restore_is_restored(tmp_path: Path) -> None:
    """Random numbers, settings, the reason of the stop, and the count of micro-batches."""
    settings = {"data.batch_size": 3, "trainer.accumulate_grad_batches": 2}
    run = RunSettings(save_every=3)
    callback = ResumeCheckpoint(PhaseFolder(tmp_path, 1), run, settings, steps_before=7)
    progress = {name: {"ready": 9, "completed": 8} for name in ("total", "current")}
    loops = {"fit_loop": {"epoch_loop.batch_progress": progress}}
    checkpoint: dict[str, Any] = {"loops": loops, "global_step": 4}
    callback.on_save_checkpoint(StubTrainer(step=4), MODULE, checkpoint)
    assert progress["total"] == progress["current"] == {"ready": 8, "completed": 8}
    assert checkpoint["format_version"] == 1 and checkpoint["stop_reason"] is None
    assert checkpoint["settings"] == settings and checkpoint["steps_before"] == 7
    assert len(checkpoint["random"]) == 1

    expected = torch.rand(3)
    resumed = callback_in(tmp_path)
    resumed.on_load_checkpoint(StubTrainer(step=4), MODULE, checkpoint)
    torch.rand(5)
    trainer = StubTrainer(step=4)
    resumed.on_train_batch_start(trainer, MODULE, None, 8)
    assert torch.equal(torch.rand(3), expected)
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 7 + 4  # over all phases
    after = torch.rand(3)
    resumed.on_train_batch_start(trainer, MODULE, None, 9)
    assert not torch.equal(torch.rand(3), after) and not torch.equal(torch.rand(3), expected)


def test_a_second_ctrl_c_stops_at_once() -> None:
    callback = ResumeCheckpoint(PhaseFolder(Path("unused"), 1), RunSettings(), {}, steps_before=0)
    callback._remember(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        callback._remember(signal.SIGINT, None)
