"""A phase that was stopped in any way ends as if it had not been, or says why it cannot go on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import compare_phases, logged_values
from mv_lightning.model.adapters import trained_parameters
from mv_lightning.model.optim import OptimSettings
from mv_lightning.testing import tiny_options
from mv_lightning.training.checkpoint_files import checkpoints, find_corruption, latest_valid
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.resume_checkpoint import (
    STOP_SIGNALS,
    ResumeCheckpoint,
    checkpoint_bytes,
)
from mv_lightning.training.settings import RunSettings
from mv_lightning.training.stopping import TrainingStopped
from tests.conftest import ROOT

STEP = VerdictModule.training_step


class Killed(BaseException):
    """Like a kill: nothing in the program handles it."""


def fit(base: Path, run: Path, *options: str) -> PhaseFolder:
    main(["fit", "--config", str(ROOT / "configs/phase1.yaml"), *tiny_options(base, run), *options])
    return PhaseFolder(run, 1)


def at(epoch: int, batch: int, act: Callable[[], object]) -> Callable[..., torch.Tensor]:
    """A training step that does something at one micro-batch before it goes on."""

    def step(module: VerdictModule, packed: object, batch_idx: int) -> torch.Tensor:
        if (module.trainer.current_epoch, batch_idx) == (epoch, batch):
            act()
        return STEP(module, packed, batch_idx)

    return step


def die() -> None:
    raise Killed


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PhaseFolder:
    """A finished phase of 6 steps of 2 x 2 rows."""
    return fit(tiny_folder, tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def broken_off(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its sixth step: checkpoints of steps 2 and 4."""
    run = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(VerdictModule, "training_step", at(0, 11, die))
        fit(tiny_folder, run)
    assert [path.name for path in checkpoints(PhaseFolder(run, 1).checkpoints)] == [
        "step-0000004.ckpt",
        "step-0000002.ckpt",
    ]
    return run


@pytest.fixture
def interrupted(broken_off: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(broken_off, tmp_path / "run")


def assert_same(one: PhaseFolder, other: PhaseFolder) -> None:
    assert {name: found for name, found in compare_phases(one, other).items() if found} == {}
    left, right = (
        load_file(folder.adapter / "adapter_model.safetensors") for folder in (one, other)
    )
    assert left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )
    left_summary, right_summary = (
        json.loads(folder.summary.read_text()) for folder in (one, other)
    )
    for name in ("steps", "rows", "tokens", "val_loss", "val_acc", "best_step"):
        assert left_summary[name] == right_summary[name], name


@pytest.mark.parametrize(
    ("workers", "accumulate", "dropout"),
    [(0, 1, "0"), (2, 4, "0.2"), (0, 4, "0")],
    ids=["plain", "workers", "window"],
)
def test_killed_in_two_epochs(
    workers: int,
    accumulate: int,
    dropout: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients are clipped (the default); kills fall inside a window, and in an epoch that was
    itself resumed."""
    options = (
        *("--data.num_workers", str(workers), "--trainer.accumulate_grad_batches", str(accumulate)),
        *("--model.lora.dropout", dropout, "--trainer.max_epochs", "2", "--run.save_every", "1"),
    )
    folder = fit(tiny_folder, tmp_path / "straight", *options)
    for epoch, batch in ((0, 7), (1, 5)):
        monkeypatch.setattr(VerdictModule, "training_step", at(epoch, batch, die))
        with pytest.raises(Killed):
            fit(tiny_folder, tmp_path / "killed", *options)
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    assert_same(folder, fit(tiny_folder, tmp_path / "killed", *options))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_end_of_the_step(
    number: signal.Signals,
    straight: PhaseFolder,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(
        VerdictModule, "training_step", at(0, 4, lambda: os.kill(os.getpid(), number))
    )
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, tmp_path)
    assert end.value.code == 128 + number and signal.getsignal(number) == before
    message = capsys.readouterr().out
    # Micro-batch 4 belongs to the third step, after which no checkpoint was due.
    assert (
        "stopped after step 3 of 6; the same command resumes from" in message
        and "step-0000003.ckpt" in message
    )
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    assert_same(straight, fit(tiny_folder, tmp_path))


@pytest.mark.parametrize("kind", ["cut short", "one byte changed"])
def test_a_damaged_checkpoint_is_passed_over(
    kind: str,
    interrupted: Path,
    straight: PhaseFolder,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest = checkpoints(PhaseFolder(interrupted, 1).checkpoints)[0]
    content = bytearray(newest.read_bytes())
    if kind == "cut short":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    folder = fit(tiny_folder, interrupted)
    message = capsys.readouterr().out
    assert (
        "step-0000004.ckpt is damaged" in message
        and "resuming from" in message
        and "step-0000002.ckpt" in message
    )
    assert_same(straight, folder)


def test_nothing_but_damaged_checkpoints(
    interrupted: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in checkpoints(PhaseFolder(interrupted, 1).checkpoints):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, interrupted)
    assert end.value.code == 2 and "Start the phase again with --fresh" in capsys.readouterr().err
    fit(tiny_folder, interrupted, "--fresh")
    assert (interrupted / "phase1.1" / "checkpoints").is_dir() and (
        interrupted / "phase1" / "summary.json"
    ).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.lora.r", "64"], "model.lora.r was 32, is 64"),
        (["--model.lora.alpha", "7"], "model.lora.alpha was 128, is 7"),
        (["--model.optim.lr", "0.5"], "model.optim.lr was 0.0001, is 0.5"),
        (["--data.batch_size", "4"], "data.batch_size was 2, is 4"),
        (["--trainer.accumulate_grad_batches", "1"], "trainer.accumulate_grad_batches was 2, is 1"),
        (["--seed_everything", "1"], "seed_everything was 3407, is 1"),
        (["--trainer.max_steps", "9"], "trainer.max_steps was 50, is 9"),
        (
            ["--data.splits.seed", "1", "--data.max_length", "900"],
            "data.max_length was 2048, is 900; data.splits.seed",
        ),
        (["--data.prompt", "answer_only"], "belongs to another prompt: expected 'detailed'"),
        (["--data.source", "synthetic:122"], "the rows of data.source was"),
    ],
)
def test_changed_settings_are_refused_by_name(
    options: list[str],
    message: str,
    broken_off: Path,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in broken_off.rglob("*.ckpt")}
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, broken_off, *options)
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in broken_off.rglob("*.ckpt")}


@pytest.mark.parametrize("other", ["base", "tokenizer"])
def test_another_base_or_tokenizer_is_refused(
    other: str,
    broken_off: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    if other == "base":
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(folder)
        model.model.norm.weight.data.mul_(1.5)
        model.save_pretrained(folder)
    else:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SystemExit) as end:
        fit(folder, broken_off)
    assert (
        end.value.code == 2
        and f"the checkpoint belongs to another {other}: " in capsys.readouterr().err
    )


def test_settings_that_do_not_matter_may_change(
    interrupted: Path, straight: PhaseFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    """The base's folder has moved, memory is short, and checkpoints are wanted more often."""
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    options = (
        "--model.base.gradient_checkpointing",
        "false",
        "--data.num_workers",
        "1",
        "--run.save_every",
        "1",
    )
    assert_same(straight, fit(moved, interrupted, *options))


def test_a_kill_before_the_summary_costs_no_training(
    straight: PhaseFolder, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(straight.run, tmp_path / "run")
    folder = PhaseFolder(tmp_path / "run", 1)
    folder.summary.unlink()
    shutil.rmtree(folder.adapter)
    monkeypatch.setattr(VerdictModule, "training_step", at(0, 0, die))
    fit(tiny_folder, folder.run)
    assert_same(straight, folder)


def test_the_newest_few_and_the_best_stay(
    straight: PhaseFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    assert [path.stem for path in checkpoints(straight.checkpoints)] == [
        "step-0000006",
        "step-0000004",
    ]
    folder = fit(tiny_folder, tmp_path, "--run.keep", "1", "--run.eval_every", "1")
    assert [path.stem for path in checkpoints(folder.checkpoints)] == ["step-0000006"]
    summary = json.loads(folder.summary.read_text())
    losses = logged_values(folder, "val/loss")
    assert len(losses) == 6
    best = min(losses, key=losses.__getitem__)
    # The curves count steps from 0.
    assert (
        json.loads((folder.best / "verifier.json").read_text())["steps"]
        == summary["best_step"]
        == int(best) + 1
    )


def test_a_checkpoint_has_the_size_that_was_told(
    straight: PhaseFolder, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message: list[int] = []
    monkeypatch.setattr(
        VerdictModule, "on_train_end", lambda module: message.append(checkpoint_bytes(module))
    )
    folder = fit(tiny_folder, tmp_path)
    for path in checkpoints(folder.checkpoints):
        assert message[0] < path.stat().st_size < 1.3 * message[0] + 100_000
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all("lora_" in name for name in state) and len(state) == 28


def test_a_disk_without_room_is_told_before_training(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(VerdictModule, "training_step", at(0, 0, die))
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, tmp_path)
    assert end.value.code == 2 and "0.00 GB free, but the phase needs" in capsys.readouterr().err


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 300 kB: what a full disk does to a checkpoint, and no disk is
    filled."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(
    interrupted: Path,
    straight: PhaseFolder,
    tiny_folder: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = PhaseFolder(interrupted, 1)
    before = checkpoints(folder.checkpoints)
    request.getfixturevalue("small_files")
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, interrupted, "--run.eval_every", "100")
    message = capsys.readouterr().err
    assert (
        end.value.code == 2 and "could not be written" in message and "It resumes from" in message
    )
    assert checkpoints(folder.checkpoints) == before and find_corruption(before[0]) is None
    assert not list(interrupted.rglob("*.tmp"))


def test_no_checkpoints_is_a_fresh_start(tmp_path: Path) -> None:
    assert latest_valid(tmp_path / "nothing") is None


def test_a_second_ctrl_c_stops_at_once() -> None:
    callback = ResumeCheckpoint(PhaseFolder(Path("unused"), 1), RunSettings(), {}, steps_before=0)
    callback._remember(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        callback._remember(signal.SIGINT, None)


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
    callback = callback_in(tmp_path)
    progress = {name: {"ready": 9, "completed": 8} for name in ("total", "current")}
    loops = {"fit_loop": {"epoch_loop.batch_progress": progress}}
    checkpoint: dict[str, Any] = {"loops": loops, "global_step": 4}
    callback.on_save_checkpoint(StubTrainer(step=4), MODULE, checkpoint)
    assert progress["total"] == progress["current"] == {"ready": 8, "completed": 8}
    assert checkpoint["format_version"] == 1 and checkpoint["stop_reason"] is None
    assert checkpoint["settings"] == {"lr": 0.1} and checkpoint["steps_before"] == 7
    assert len(checkpoint["random"]) == 1

    expected = torch.rand(3)
    resumed = callback_in(tmp_path)
    resumed.on_load_checkpoint(StubTrainer(step=4), MODULE, checkpoint)
    torch.rand(5)
    trainer = StubTrainer(step=4)
    resumed.on_train_batch_start(trainer, MODULE, None, 8)
    assert torch.equal(torch.rand(3), expected)
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 4
    after = torch.rand(3)
    resumed.on_train_batch_start(trainer, MODULE, None, 9)
    assert not torch.equal(torch.rand(3), after) and not torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_no_number_names_its_rows(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def poisoned(module: VerdictModule, batch: object, batch_idx: int) -> torch.Tensor:
        if batch_idx == 6:
            with torch.no_grad():
                next(p for p in module.parameters() if p.requires_grad).fill_(float("nan"))
            poisoned.rows = batch.rows_B.tolist()  # type: ignore[attr-defined]
        return STEP(module, batch, batch_idx)

    monkeypatch.setattr(VerdictModule, "training_step", poisoned)
    with pytest.raises(SystemExit) as end:
        fit(tiny_folder, tmp_path)
    message = capsys.readouterr().err
    assert (
        end.value.code == 2
        and f"the loss is not finite at step 3, source rows {poisoned.rows}" in message
    )
