"""`predict` as a user runs it: interrupted at any moment and started again, it ends as if
nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from mv_lightning.atomic import Journal
from mv_lightning.cli import main
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.model.generate import find_verdict
from mv_lightning.model.precision import PRECISION, default_precision
from mv_lightning.schema import Batch
from mv_lightning.testing import (
    batches_done,
    predict_with_kills,
    run_command,
    run_forked,
    tiny_options,
)
from mv_lightning.training.checkpoint_files import checkpoints
from mv_lightning.training.module import VerdictModule
from tests.conftest import ROOT

ROWS = 80
FILES = ("submission.csv", "probabilities.csv")
OTHER_PRECISION = "32-true" if default_precision(torch.device("cpu")) == PRECISION else "16-mixed"
"""Not the default of this CPU. Lightning takes bf16-mixed for 16-mixed on a CPU."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in `run_forked`, so that this process's sums are the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one short phase: its adapter is what predicts."""
    folder = tmp_path_factory.mktemp("trained")
    run_forked(
        ["fit", "--config", str(ROOT / "configs/phase1.yaml"), *tiny_options(tiny_folder, folder)],
        folder / "log.txt",
    )
    return folder


@pytest.fixture(scope="module")
def args(trained: Path, tiny_folder: Path):
    """The command that predicts into a folder, a few rows at a time."""

    def args(folder: Path, *more: str) -> list[str]:
        return [
            *(
                "predict",
                "--config",
                str(ROOT / "configs/predict.yaml"),
                *tiny_options(tiny_folder, folder),
            ),
            *(
                "--model.init_from",
                str(trained / "phase1" / "adapter"),
                "--predict.source",
                f"synthetic:{ROWS}",
            ),
            *("--data.eval_tokens", "1024", "--predict.calibrate", "false", *more),
        ]

    return args


@pytest.fixture(scope="module")
def straight(args, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    run_forked(args(folder), folder / "log.txt")
    return folder


@pytest.fixture(scope="module")
def killed(args, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction that was killed after its tenth batch."""
    folder = tmp_path_factory.mktemp("killed")
    assert run_forked(args(folder), folder / "log.txt", lambda: batches_done(folder) >= 10)
    assert batches_done(folder) < 30 and not (folder / "submission.csv").exists()
    return folder


@pytest.fixture
def half(killed: Path, tmp_path: Path) -> Path:
    """A copy of it to resume."""
    return shutil.copytree(killed, tmp_path / "half")


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_kills_do_not_show(args, straight: Path, tmp_path: Path) -> None:
    marks = sorted(random.Random(3407).sample(range(1, 30), 2))
    kills = predict_with_kills(args(tmp_path), tmp_path, marks)
    assert len(kills) == 2
    assert "were predicted before the interruption; resuming" in (tmp_path / "log.txt").read_text()
    assert same(straight, tmp_path)
    assert not list(tmp_path.glob("predictions.rank*.part"))


def test_limited_batches_are_stored_for_later(
    args, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for batches in (3, 2):
        main([*args(tmp_path), "--trainer.limit_predict_batches", str(batches)])
        assert f"limit_predict_batches={batches} says" in capsys.readouterr().out
        assert not any((tmp_path / name).exists() for name in FILES)
    assert batches_done(tmp_path) == 5
    main(args(tmp_path))
    assert same(straight, tmp_path)


def test_rows_that_are_predicted_are_not_predicted_again(args, straight: Path, half: Path) -> None:
    """Predictions in the part file stand, even wrong ones: their rows never reach the model
    again."""
    part = half / "predictions.rank0.part"
    header, first, *others = Journal.read(part)
    part.unlink()
    journal = Journal(part)
    for line in (header, {**first, "log_odds": [123.0] * len(first["rows"])}, *others):
        journal.append(line)
    journal.close()
    main(args(half))
    with (
        (half / "probabilities.csv").open() as file,
        (straight / "probabilities.csv").open() as reference,
    ):
        here, there = list(csv.DictReader(file)), list(csv.DictReader(reference))
    changed = {int(row["ID"]) for row, old in zip(here, there, strict=True) if row != old}
    assert changed == set(first["rows"]) and all(
        here[row]["log_odds"] == "123.0" for row in changed
    )


def test_a_torn_line_costs_its_batch_only(args, straight: Path, half: Path) -> None:
    part = half / "predictions.rank0.part"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:4]) + lines[4][:-9])
    main(args(half))
    assert same(straight, half)


def test_a_kill_after_the_last_batch_leaves_only_the_publishing(
    args, straight: Path, half: Path
) -> None:
    part = half / "predictions.rank0.part"
    done = {row for line in islice(Journal.read(part), 1, None) for row in line["rows"]}
    with (straight / "probabilities.csv").open() as file:
        left = {
            int(row["ID"]): float(row["log_odds"])
            for row in csv.DictReader(file)
            if int(row["ID"]) not in done
        }
    journal = Journal(part)
    journal.append({"rows": list(left), "log_odds": list(left.values()), "seconds": 1000.0})
    journal.close()
    seconds = sum(line["seconds"] for line in islice(Journal.read(part), 1, None))
    main(args(half))
    assert same(straight, half) and not part.exists()
    # The time of all starts, not of the last one alone.
    assert json.loads((half / "prediction.json").read_text())["seconds"] == seconds > 1000


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--predict.source", f"synthetic:{ROWS + 2}"], "source"),
        (["--data.max_length", "2000"], "max_length"),
        (["--trainer.precision", OTHER_PRECISION], "precision"),
        (["--predict.mode", "generate", "--data.eval_tokens", "8192"], "predict_mode"),
    ],
)
def test_predictions_with_other_settings_are_renamed(
    options: list[str], what: str, args, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (half / "predictions.rank0.part").read_bytes()
    main(args(half, *options))
    printed = capsys.readouterr().out
    assert (
        "made with other settings (" in printed
        and f"{what} was" in printed
        and "is not used" in printed
    )
    assert (half / "predictions.rank0.part.1").read_bytes() == before
    assert "resuming with the others" not in printed and (half / "submission.csv").exists()


def test_another_adapter_does_not_resume(
    args, trained: Path, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained / "phase1" / "adapter", half / "other")
    weights = load_file(half / "other" / "adapter_model.safetensors")
    save_file(
        {name: weight + 0.01 for name, weight in weights.items()},
        half / "other" / "adapter_model.safetensors",
    )
    main(args(half, "--model.init_from", str(half / "other")))
    assert "made with other settings (adapter was" in capsys.readouterr().out


def test_a_checkpoint_is_another_adapter(
    args, trained: Path, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints(trained / "phase1" / "checkpoints")[0]
    main(args(half, "--ckpt_path", str(newest)))
    assert (
        "made with other settings (adapter was" in capsys.readouterr().out
        and (half / "submission.csv").exists()
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"is_corect": ["True", "False"]},
            "no labels in `is_correct`, so no accuracy will be reported",
        ),
        (
            {"is_correct": ["", ""]},
            "no labels in `is_correct`, so no accuracy will be reported",
        ),
        (
            {"is_correct": ["True", "True"]},
            "the same label in every row in `is_correct`, so no accuracy will be reported",
        ),
        ({"is_correct": ["True", "False"]}, "2 rows predicted, accuracy "),
        ({"is_correct": ["True", "maybe"]}, "`is_correct` is not a label ('maybe') in 1 rows: 1"),
        ({"is_correct": ["True", ""]}, "`is_correct` is not a label ('') in 1 rows: 1"),
    ],
    ids=str,
)
def test_an_accuracy_is_reported_or_the_reason_why_not(
    labels: dict[str, list[str]],
    message: str,
    args,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (tmp_path / "rows.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["question", "answer", "solution", *labels])
        table.writerows(["1 + 1?", str(i), "s", label] for i, label in enumerate(*labels.values()))
    command = args(tmp_path / "run", "--predict.source", str(tmp_path / "rows.csv"))
    if "not a label" in message:
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 2 and not (tmp_path / "run" / "submission.csv").exists()
        assert message in capsys.readouterr().err
    else:
        main(command)
        printed = capsys.readouterr().out
        assert message in printed and ("accuracy 0" in printed or "accuracy 1" in printed) == (
            "predicted, " in message
        )


def test_other_batches_may_follow(args, straight: Path, half: Path) -> None:
    """After running out of memory, say; the rows that are left are grouped anew, none twice."""
    main(args(half, "--data.eval_tokens", "700"))
    with (
        (half / "probabilities.csv").open() as file,
        (straight / "probabilities.csv").open() as reference,
    ):
        for row, old in zip(csv.DictReader(file), csv.DictReader(reference), strict=True):
            assert row["ID"] == old["ID"]
            assert float(row["log_odds"]) == pytest.approx(
                float(old["log_odds"]), abs=0.05
            )  # bf16, other batches


def test_two_processes_leave_the_file_of_one(args, straight: Path, tmp_path: Path) -> None:
    command = args(tmp_path, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    printed = run_command(*command)
    assert printed.count("rows predicted") == 1
    assert same(straight, tmp_path)
    assert not list(tmp_path.glob("predictions.rank*.part"))


def test_parts_of_two_processes_are_finished_by_one(args, straight: Path, half: Path) -> None:
    part = half / "predictions.rank0.part"
    header, *batches = Journal.read(part)
    part.unlink()
    for rank in range(2):
        journal = Journal(half / f"predictions.rank{rank}.part")
        for line in (header, *batches[rank::2]):
            journal.append(line)
        journal.close()
    main(args(half))
    assert same(straight, half)
    assert not list(half.glob("predictions.rank*.part"))


def test_a_sample_submission_of_other_rows_stops_before_the_model_is_loaded(
    args, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("ID,is_correct\n" + "".join(f"{row},True\n" for row in range(ROWS + 2)))
    monkeypatch.setattr("mv_lightning.model.base.load_base", None)
    with pytest.raises(SystemExit) as end:
        main(args(tmp_path / "run", "--predict.sample_submission", str(sample)))
    assert end.value.code == 2
    assert "has 82 rows, the source 80. 2 IDs of the sample are not in the source: 80, 81" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "submission.csv").exists()


def test_ids_that_repeat_stop_before_the_model_is_loaded(
    args, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("id,question,answer,solution\n7,a,1,x\n8,b,1,x\n7,c,1,x\n")
    monkeypatch.setattr("mv_lightning.model.base.load_base", None)
    with pytest.raises(SystemExit) as end:
        main(args(tmp_path / "run", "--predict.source", str(rows)))
    assert end.value.code == 2
    assert "expected IDs that differ" in capsys.readouterr().err


def test_rows_that_do_not_fit_do_not_fail_the_others(
    args, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"r{i}", f"What is {i} + {i}?", str(2 * i), "s", i % 2) for i in range(6)]
    long = [("long1", "1 + 1? " * 2_000, "2", "", 1), ("long2", "1 + 1?", "2 " * 9_000, "", 0)]
    for name, written in (("short", rows), ("mixed", [long[0], *rows, long[1]])):
        with (tmp_path / f"{name}.csv").open("w") as file:
            table = csv.writer(file)
            table.writerow(["id", "question", "answer", "solution", "is_correct"])
            table.writerows(written)
    main(args(tmp_path / "short", "--predict.source", str(tmp_path / "short.csv")))
    mixed = args(tmp_path / "mixed", "--predict.source", str(tmp_path / "mixed.csv"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("mv_lightning.model.base.load_base", None)
        main(mixed)
    error = capsys.readouterr().err
    assert end.value.code == 2 and "2 rows do not fit into max_length=2048 tokens" in error
    assert "ID long1 (" in error and "ID long2 (" in error and "rows_too_long=missing" in error
    main([*mixed, "--predict.rows_too_long", "missing"])
    printed = capsys.readouterr().out
    assert "8 rows predicted, 2 of them too long for a score and taken as False" in printed
    lines = {}
    for name in ("short", "mixed"):
        lines[name] = (tmp_path / name / "probabilities.csv").read_text().splitlines()
    header, first, *others, last = lines["mixed"]
    assert [header, *others] == lines["short"] and (first, last) == ("long1,,", "long2,,")
    submission = (tmp_path / "mixed" / "submission.csv").read_text().splitlines()
    assert (submission[1], submission[-1]) == ("long1,False", "long2,False")
    stored = json.loads((tmp_path / "mixed" / "prediction.json").read_text())
    assert stored["missing"] == {"rows": 2, "verdict": False, "examples": ["long1", "long2"]}
    alone = json.loads((tmp_path / "short" / "prediction.json").read_text())
    assert "missing" not in alone and (stored["rows"], alone["rows"]) == (8, 6)
    # long2 is labelled False, long1 True.
    assert stored["accuracy"] == pytest.approx((6 * alone["accuracy"] + 1) / 8)


def test_a_sample_submission_of_the_same_rows_changes_nothing(
    args, straight: Path, tmp_path: Path
) -> None:
    main(args(tmp_path, "--predict.sample_submission", str(straight / "submission.csv")))
    assert same(straight, tmp_path)


GENERATE = (
    "--predict.mode",
    "generate",
    "--predict.source",
    "synthetic:20",
    "--data.eval_tokens",
    "1024",
)


@pytest.fixture(scope="module")
def generated(args, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction by generated texts; calibration is asked for, and must not be applied."""
    folder = tmp_path_factory.mktemp("generated")
    main(args(folder, *GENERATE, "--predict.calibrate", "true"))
    return folder


def test_generated_verdicts_have_every_row_once_and_malformed_ones_are_counted(
    generated: Path,
) -> None:
    with (
        (generated / "probabilities.csv").open() as file,
        (generated / "submission.csv").open() as submission,
    ):
        odds = [float(row["log_odds"]) for row in csv.DictReader(file)]
        verdicts = list(csv.DictReader(submission))
    assert [int(row["ID"]) for row in verdicts] == list(range(20)) and set(odds) <= {1.0, 0.0, -1.0}
    assert [row["is_correct"] == "True" for row in verdicts] == [value == 1 for value in odds]
    stored = json.loads((generated / "prediction.json").read_text())
    malformed = [row for row, value in enumerate(odds) if value == 0]
    assert stored["predict_mode"] == "generate" and stored["calibration"] == Calibration().to_json()
    assert malformed and stored["malformed"]["rows"] == len(malformed)
    assert stored["malformed"]["share"] == len(malformed) / 20
    assert [one["row"] for one in stored["malformed"]["examples"]] == malformed[:5]
    assert all(
        one["text"] and find_verdict(one["text"]) is None for one in stored["malformed"]["examples"]
    )


def test_generated_verdicts_resume_after_an_interruption(
    args,
    generated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = VerdictModule.predict_step

    def two_batches(module: VerdictModule, batch: Batch, batch_idx: int) -> object:
        if batch_idx == 2:
            raise KeyboardInterrupt
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(VerdictModule, "predict_step", two_batches)
        main(args(tmp_path, *GENERATE))
    assert batches_done(tmp_path) == 2
    main(args(tmp_path, *GENERATE))
    assert "resuming with the others" in capsys.readouterr().out and same(generated, tmp_path)
    one, other = (
        json.loads((folder / "prediction.json").read_text()) for folder in (generated, tmp_path)
    )
    assert one["malformed"] == other["malformed"] and other["rows_before_interruption"] > 0


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """SIGINT as in a terminal.

    A shell lets its background processes ignore it, and so does Lightning after an interruption.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_at_once_and_nothing_is_lost(
    number: signal.Signals,
    args,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, before = VerdictModule.predict_step, signal.getsignal(signal.SIGTERM)

    def interrupted(module: VerdictModule, batch: Batch, batch_idx: int) -> object:
        if batch_idx == 2:
            os.kill(os.getpid(), number)
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(VerdictModule, "predict_step", interrupted)
        main(args(tmp_path))
    assert end.value.code == 128 + number and signal.getsignal(signal.SIGTERM) == before
    assert batches_done(tmp_path) == 2
    main(args(tmp_path))
    assert same(straight, tmp_path)


def test_a_share_of_true_is_not_ignored(
    args, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(args(tmp_path, "--predict.true_share", "0.4"))
    assert (
        end.value.code == 2
        and "predict.calibrate=false asks for those of the model" in capsys.readouterr().err
    )


def test_a_generated_verdict_has_no_prior_to_shift(
    args, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(args(tmp_path, *GENERATE, "--predict.true_share", "0.4"))
    assert end.value.code == 2 and "predict.mode=generate has none" in capsys.readouterr().err
