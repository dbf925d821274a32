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

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
from safetensors.torch import load_file

from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.cli import main
from mv_lightning.experiments.resume_check import compare_phases, logged_values
from mv_lightning.testing import tiny_options
from mv_lightning.training.checkpoint_files import (
    checkpoints,
    find_corruption,
    latest_valid,
    read_checkpoint,
)
from mv_lightning.training.module import VerdictModule
from mv_lightning.training.resume_checkpoint import (
    checkpoint_bytes,
)
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


def fit_until_killed(base: Path, run: Path, *options: str) -> None:
    """A run that is killed in its sixth step: checkpoints of steps 2 and 4."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(VerdictModule, "training_step", at(0, 11, die))
        fit(base, run, *options)
    assert [path.name for path in checkpoints(PhaseFolder(run, 1).checkpoints)] == [
        "step-0000004.ckpt",
        "step-0000002.ckpt",
    ]


@pytest.fixture(scope="module")
def broken_off(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("broken")
    fit_until_killed(tiny_folder, run)
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
    ("workers", "accumulate", "dropout", "pair_weight"),
    [(0, 1, "0", "0"), (2, 4, "0.2", "0"), (0, 4, "0", "0.7")],
    ids=["plain", "workers", "pairs"],
)
def test_killed_in_two_epochs(
    workers: int,
    accumulate: int,
    dropout: str,
    pair_weight: str,
    tiny_folder: Path,
    question_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients are clipped (the default); kills fall inside a window, and in an epoch that was
    itself resumed."""
    options = (
        *("--data.num_workers", str(workers), "--trainer.accumulate_grad_batches", str(accumulate)),
        *("--model.lora.dropout", dropout, "--trainer.max_epochs", "2", "--run.save_every", "1"),
        *("--data.source", str(question_rows), "--data.splits.phases", "1"),
        *("--data.splits.group_by_question", "true", "--model.pair_weight", pair_weight),
    )
    folder = fit(tiny_folder, tmp_path / "straight", *options)
    for epoch, batch in ((0, 7), (1, 5)):
        monkeypatch.setattr(VerdictModule, "training_step", at(epoch, batch, die))
        with pytest.raises(Killed):
            fit(tiny_folder, tmp_path / "killed", *options)
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    assert_same(folder, fit(tiny_folder, tmp_path / "killed", *options))
    assert any(logged_values(folder, "train/pair_loss").values()) == (pair_weight != "0")


def test_other_micro_batches_of_the_same_rows(tiny_folder: Path, tmp_path: Path) -> None:
    """After running out of memory, say: two steps of four rows at once.

    In fp32 on every machine: the rounding of bf16 depends on the rows of a micro-batch.
    """
    precision = ("--trainer.precision", "32-true")
    straight = fit(tiny_folder, tmp_path / "straight", *precision)
    fit_until_killed(tiny_folder, tmp_path / "run", *precision)
    options = ("--data.batch_size", "4", "--trainer.accumulate_grad_batches", "1")
    resumed = fit(tiny_folder, tmp_path / "run", *precision, *options)
    expected = logged_values(straight, "train/loss")
    losses = logged_values(resumed, "train/loss")
    assert losses.keys() == expected.keys() and len(losses) == 6
    for step, loss in expected.items():
        assert losses[step] == pytest.approx(loss, rel=1e-4), step
    assert logged_values(resumed, "val/loss").keys() == logged_values(straight, "val/loss").keys()
    summaries = [json.loads(folder.summary.read_text()) for folder in (straight, resumed)]
    assert summaries[0]["rows"] == summaries[1]["rows"]


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
        (["--model.pair_weight", "0.7"], "model.pair_weight was 0.0, is 0.7"),
        (["--model.label_smoothing", "0.1"], "model.label_smoothing was 0.0, is 0.1"),
        (["--data.batch_size", "4"], "1 processes). Set trainer.accumulate_grad_batches=1"),
        (["--trainer.accumulate_grad_batches", "1"], "before the interruption, 4 (data.batch_size"),
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


def test_fp16_with_a_gradient_scaler(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning has 16-mixed on GPUs only and takes bf16-mixed on a CPU; PyTorch has both."""
    monkeypatch.setattr(
        _AcceleratorConnector,
        "_check_and_init_precision",
        lambda connector: MixedPrecision("16-mixed", "cpu"),
    )
    # A product in fp16 takes a CPU about ten times as long.
    options = ("--trainer.precision", "16-mixed", "--trainer.max_steps", "3")
    options += ("--run.save_every", "1", "--data.splits.val_fraction", "0.0625")
    options += ("--data.batch_size", "1")
    uninterrupted = fit(tiny_folder, tmp_path / "straight", *options)
    monkeypatch.setattr(VerdictModule, "training_step", at(0, 3, die))
    with pytest.raises(Killed):
        fit(tiny_folder, tmp_path / "killed", *options)
    monkeypatch.setattr(VerdictModule, "training_step", STEP)
    resumed = fit(tiny_folder, tmp_path / "killed", *options)
    assert_same(uninterrupted, resumed)
    scaler = read_checkpoint(checkpoints(resumed.checkpoints)[0])["MixedPrecision"]
    # It has counted all steps, or halved the scale after one that overflowed.
    assert scaler["_growth_tracker"] == 3 or 0 < scaler["scale"] < 65_536
    assert "MixedPrecision" in compare_phases(uninterrupted, resumed)


def test_no_checkpoints_is_a_fresh_start(tmp_path: Path) -> None:
    assert latest_valid(tmp_path / "nothing") is None


def test_a_loss_that_is_no_number_names_its_rows(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def poisoned(module: VerdictModule, batch: object, batch_idx: int) -> torch.Tensor:
        if batch_idx == 7:  # the second micro-batch of the step
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
