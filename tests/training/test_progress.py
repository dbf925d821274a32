"""Without a terminal progress is a line after the first step, at intervals, and after the last."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mv_lightning.training import progress
from mv_lightning.training.progress import ProgressLines, progress_callback


def trainer(step: int) -> SimpleNamespace:
    """A trainer at the end of a step, of 40 planned."""
    return SimpleNamespace(
        global_step=step,
        max_steps=40,
        max_epochs=-1,
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
        progress_bar_metrics={"train/loss": 0.5, "train/acc": 0.25},
    )


def test_lines_of_a_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    lines = progress_callback()
    assert isinstance(lines, ProgressLines)
    module = torch.nn.Identity()
    lines.on_train_start(trainer(0), module)  # type: ignore[arg-type]
    for step in range(1, 41):
        clock["now"] += 4.0
        lines.on_train_batch_end(trainer(step), module)  # type: ignore[arg-type]
    printed = capsys.readouterr().out.splitlines()
    steps = [int(line.split()[1]) for line in printed]
    # 30 seconds are 8 steps of 4.
    assert steps == [1, 9, 17, 25, 33, 40]
    assert printed[0] == "step 1 of 40: loss 0.500, accuracy 0.250, 4 s"


def test_a_process_that_is_not_the_first_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = ProgressLines()
    lines.disable()
    lines.on_train_batch_end(trainer(40), torch.nn.Identity())  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_batches_of_several_test_loaders_are_counted_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines, module = ProgressLines(), torch.nn.Identity()
    two = SimpleNamespace(num_test_batches=[3, 2])
    for index in ([0], [1], [2], [0, 1], [1, 1]):
        lines.on_test_batch_end(two, module, None, None, *index)  # type: ignore[arg-type]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed] == [
        f"test: batch {batch} of 5" for batch in range(1, 6)
    ]
