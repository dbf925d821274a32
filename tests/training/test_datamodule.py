"""The data module counts steps, knows which questions were trained on, and refuses other data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mv_lightning.data.batching import PackingMode, epoch_order, spread_classes
from mv_lightning.data.encoding import RowsTooLong
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan
from mv_lightning.experiments.child_run import KILLED
from mv_lightning.testing import fork_processes, tiny_options
from mv_lightning.training.datamodule import VerdictDataModule
from tests.conftest import ROOT

PLAN = SplitPlan(phases=2, rows=16, val_fraction=0.25, test_rows=8)


def trainer(**values: object) -> SimpleNamespace:
    """What the data module reads of a trainer."""
    defaults = {
        "is_global_zero": True,
        "fast_dev_run": False,
        "accumulate_grad_batches": 3,
        "world_size": 1,
        "global_rank": 0,
        "limit_train_batches": None,
        "max_epochs": 1,
        "max_steps": -1,
        "strategy": SimpleNamespace(broadcast=lambda value: value),
    }
    return SimpleNamespace(**{**defaults, **values})


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """60 rows of 20 questions, so that random splits share questions."""
    path = tmp_path / "rows.jsonl"
    lines = [
        {
            "question": f"{i % 20} + 1?",
            "answer": str(i),
            "solution": "",
            "is_correct": (i + i // 20) % 2 == 0,
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def data_module(
    rows: Path,
    base: Path,
    plan: SplitPlan = PLAN,
    stage: str = "fit",
    batch_size: int = 2,
    pair_weight: float = 0,
    rows_too_long: RowsTooLong = "error",
    max_length: int = 2048,
    packing: PackingMode = "clean",
    **values: object,
) -> VerdictDataModule:
    data = VerdictDataModule(
        str(rows),
        phase=2,
        splits=plan,
        prompt="answer_only",
        max_length=max_length,
        batch_size=batch_size,
        packing=packing,
        base=str(base),
        run_dir=str(rows.parent / "run"),
        pair_weight=pair_weight,
        rows_too_long=rows_too_long,
    )
    data.trainer = trainer(**values)  # type: ignore[assignment]
    if data.trainer.is_global_zero:
        data.trainer.state = SimpleNamespace(fn=stage)
        data.prepare_data()
    data.setup(stage)
    return data


@pytest.mark.parametrize(("limit", "steps"), [(None, 2), (3, 1), (4, 2), (0.5, 1)])
def test_steps_of_an_epoch(limit: float | None, steps: int, rows: Path, tiny_folder: Path) -> None:
    """12 training rows are 6 micro-batches of 2, or 2 steps of 3 micro-batches."""
    data = data_module(rows, tiny_folder, limit_train_batches=limit)
    assert data.optimizer_steps == steps


def test_questions_that_this_phase_or_one_before_trains_on(rows: Path, tiny_folder: Path) -> None:
    data = data_module(rows, tiny_folder, stage="test")
    assert data._drawn is not None
    questions = load_source(str(rows)).table["question"][:]
    trained = {questions[row] for shard in data._drawn.train for row in shard.tolist()}
    split = data.splits["test"]
    expected = [questions[row] in trained for row in split.encoded.rows_N.tolist()]
    assert split.seen_N is not None and split.seen_N.tolist() == expected
    assert any(expected) and not all(expected)


def test_grouped_rows_have_no_seen_questions(rows: Path, tiny_folder: Path) -> None:
    plan = SplitPlan(phases=2, rows=12, val_fraction=0.34, test_rows=6, group_by_question=True)
    assert data_module(rows, tiny_folder, plan, stage="test").splits["test"].seen_N is None


def test_a_checkpoint_of_other_data_is_refused_by_name(rows: Path, tiny_folder: Path) -> None:
    data = data_module(rows, tiny_folder)
    data.load_state_dict(data.state_dict())
    other = {**data.state_dict(), "the rows of data.source": "abc"}
    with pytest.raises(ValueError, match=r"the rows of data\.source was 'abc', is '"):
        data.load_state_dict(other)


def test_a_process_without_any_row_is_refused(rows: Path, tiny_folder: Path) -> None:
    data_module(rows, tiny_folder, world_size=12)
    with pytest.raises(ValueError, match="got 12 rows and 13 processes"):
        data_module(rows, tiny_folder, world_size=13)


def test_rows_that_do_not_fit_are_left_out_of_a_prediction_on_request(
    rows: Path, tiny_folder: Path
) -> None:
    lines = rows.read_text().splitlines()
    long = {"question": "long " * 300, "answer": "1", "solution": "", "is_correct": True}
    rows.write_text("\n".join([*lines[:2], json.dumps(long), *lines[2:5]]) + "\n")
    data = data_module(rows, tiny_folder, stage="predict", rows_too_long="missing", max_length=300)
    split = data.splits["predict"]
    assert split.encoded.rows_N.tolist() == [0, 1, 3, 4, 5]
    assert data.predict_rows is not None
    expected = data.predict_rows.question_ids_N[split.encoded.rows_N]
    assert split.question_ids_N.tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"1 rows do not fit .*: row 2 \("):
        data_module(rows, tiny_folder, stage="predict", max_length=300)
    with pytest.raises(ValueError, match="6 rows do not fit"):  # there is nothing to predict
        data_module(rows, tiny_folder, stage="predict", rows_too_long="missing", max_length=9)


def test_rows_that_are_predicted_already_are_left_out(rows: Path, tiny_folder: Path) -> None:
    data = data_module(rows, tiny_folder, stage="predict")
    data.exclude_from_prediction(np.isin(np.arange(60), [0, 7, 59]))
    predicted = [row for batch in data.predict_dataloader() for row in batch.rows_B.tolist()]
    assert sorted(predicted) == sorted(set(range(60)) - {0, 7, 59})


def test_a_dev_run_stores_no_tokens(rows: Path, tiny_folder: Path) -> None:
    data_module(rows, tiny_folder, fast_dev_run=True)
    assert not (rows.parent / "run").exists()


def test_other_processes_read_what_the_first_one_stored(
    rows: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data_module(rows, tiny_folder)
    monkeypatch.setattr("mv_lightning.training.split_encoding.encode_parts", None)
    other = data_module(rows, tiny_folder, is_global_zero=False, global_rank=1, world_size=2)
    for name in ("train", "val"):
        one, two = first.splits[name].encoded, other.splits[name].encoded
        assert isinstance(two.ids_T, np.memmap) and np.array_equal(one.ids_T, two.ids_T)


def fit_args(base: Path, rows: Path, max_length: int) -> list[str]:
    options = [*tiny_options(base, rows.parent / "run"), "--data.source", str(rows)]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    options += ["--data.max_length", str(max_length), "--data.splits.rows", "12", *two]
    return ["fit", "--config", str(ROOT / "configs/phase1.yaml"), *options]


def test_what_the_first_process_finds_wrong_ends_all(rows: Path, tiny_folder: Path) -> None:
    assert fork_processes(fit_args(tiny_folder, rows, 20), 2, rows.parent) == [2, 2]
    first, second = ((rows.parent / f"rank{rank}.log").read_text() for rank in range(2))
    (error,) = [line for line in first.splitlines() if line.startswith("error: ")]
    assert "rows do not fit" in error and error in second


def test_nobody_waits_for_a_first_process_that_died(rows: Path, tiny_folder: Path) -> None:
    line = json.loads(rows.read_text().splitlines()[0])
    long = [json.dumps({**line, "solution": f"{i} " + "so " * 20_000}) for i in range(60)]
    rows.write_text(rows.read_text() + "\n".join(long))
    tokens = rows.parent / "run/phase1"
    args = fit_args(tiny_folder, rows, 2048)
    tokenises = lambda: any(tokens.rglob(".*.tmp"))  # noqa: E731
    first, second = fork_processes(args, 2, rows.parent, (0, tokenises))
    assert first == KILLED and second == 1


GROUPED = SplitPlan(
    phases=2, rows=24, val_fraction=0.25, test_rows=0, group_by_question=True, balance=False
)


def test_pairs_share_micro_batches(rows: Path, tiny_folder: Path) -> None:
    """Questions of three rows in micro-batches of six; other ones in every epoch."""
    data = data_module(rows, tiny_folder, GROUPED, batch_size=6, pair_weight=0.5)
    questions_N = data.splits["train"].question_ids_N
    compositions = []
    for epoch in range(3):
        for micro_batch in data._training_micro_batches(epoch):
            questions = questions_N[list(micro_batch.indices)].tolist()
            assert [questions.count(question) for question in questions] == [3] * 6
        compositions.append(questions_N[data.training_order(epoch)].tolist())
    assert compositions[0] != compositions[1] != compositions[2]
    again = data_module(rows, tiny_folder, GROUPED, batch_size=6, pair_weight=0.9)
    assert np.array_equal(again.training_order(2), data.training_order(2))
    longest = data.longest_training_batch()
    assert longest.questions_B is not None and len(longest.questions_B) == 6
    batches = [data._training_rows()[micro] for micro in data._training_micro_batches(0)]
    assert len(longest.ids_T) == max(len(batch.ids_T) for batch in batches)


def test_without_a_pair_loss_the_order_is_random_or_stratified(
    rows: Path, tiny_folder: Path
) -> None:
    data = data_module(rows, tiny_folder, GROUPED, batch_size=6)
    labels_N = data.splits["train"].encoded.labels_N
    random_N = epoch_order(len(labels_N), GROUPED.seed, phase=2, epoch=1)
    assert np.array_equal(data.training_order(1), random_N)
    data.stratify = True
    stratified_N = data.training_order(1)
    assert not np.array_equal(stratified_N, random_N)
    assert np.array_equal(stratified_N, spread_classes(random_N, labels_N[random_N] == 1))
    for micro_batch in data._training_micro_batches(1):
        rows_B = list(micro_batch.indices)
        assert abs(labels_N[rows_B].sum() - len(rows_B) * labels_N.mean()) < 1
    assert data.longest_training_batch().questions_B is None


def test_pairs_that_cannot_be_are_refused(rows: Path, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"pair_weight=0\.5 .*data\.batch_size=1"):
        data_module(rows, tiny_folder, GROUPED, batch_size=1, pair_weight=0.5)
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:20]))  # one of each question
    plan = SplitPlan(phases=2, rows=10, val_fraction=0.2, test_rows=0)
    with pytest.raises(ValueError, match="none of the questions of the 8 training rows has both"):
        data_module(rows, tiny_folder, plan, pair_weight=0.5)
    assert len(data_module(rows, tiny_folder, plan).splits["train"].encoded) == 8


def test_only_training_batches_are_contaminated(rows: Path, tiny_folder: Path) -> None:
    """A micro-batch of two rows: each a span, and what is between them."""
    lengths = {}
    for mode in ("clean", "contaminated", "none"):
        data = data_module(rows, tiny_folder, packing=mode)
        batch = data.longest_training_batch()
        lengths[mode] = (len(batch.packing.rows), len(batch.packing.rows[1]), len(batch.ids_T))
        evaluated = next(iter(data.val_dataloader())).packing.row_spans
        assert (evaluated is None) == (mode != "none")
    prefix = len(data.splits["train"].encoded.prefix_ids)
    assert [length[:2] for length in lengths.values()] == [(2, 3), (2, 1), (2, 1)]
    assert lengths["contaminated"][2] == lengths["clean"][2] + prefix + 2
    assert lengths["none"][2] % 2 == 0 and lengths["none"][2] >= lengths["clean"][2] + prefix


def test_a_single_row_cannot_be_contaminated(rows: Path, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size of at least 2"):
        VerdictDataModule(
            str(rows), packing="contaminated", batch_size=1, base=str(tiny_folder), run_dir="."
        )
