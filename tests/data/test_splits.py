"""Splits are disjoint, exact, balanced and repeatable, whatever the labels, groups and plan."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.splits import (
    SplitPlan,
    check_held_out,
    manifest,
    overlap,
    plan_splits,
    quotas,
    read_manifest,
    write_manifest,
)

SMALL = SplitPlan(phases=2, rows=40, val_fraction=0.1, test_rows=20)


def source(
    rows: int, questions: int, seed: int = 0, true_share: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and questions of a source where questions repeat and wrong answers are more."""
    rng = np.random.default_rng(seed)
    return rng.random(rows) < true_share, rng.integers(0, questions, rows)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


@st.composite
def plans(draw: st.DrawFn) -> SplitPlan:
    return SplitPlan(
        phases=draw(st.integers(1, 4)),
        rows=2 * draw(st.integers(4, 30)),
        val_fraction=draw(st.sampled_from([0.0, 0.25, 0.5])),
        test_rows=2 * draw(st.integers(0, 20)),
        balance=draw(st.booleans()),
        balance_test=draw(st.booleans()),
        group_by_question=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 2)),
    )


@settings(max_examples=150, deadline=None)
@given(plan=plans(), seed=st.integers(0, 1000), questions=st.sampled_from([300, 1500]))
def test_every_plan_is_kept_to(plan: SplitPlan, seed: int, questions: int) -> None:
    labels_N, question_ids_N = source(4_000, questions, seed)
    splits = plan_splits(labels_N, question_ids_N, plan)
    rows = splits.named()

    drawn = np.concatenate(list(rows.values()))
    assert len(np.unique(drawn)) == len(drawn) == plan.phases * plan.rows + plan.test_rows
    assert drawn.dtype == np.int64
    assert drawn.min() >= 0
    assert drawn.max() < len(labels_N)

    assert len(splits.test) == plan.test_rows
    assert len(splits.val) == len(splits.train) == plan.phases
    half = plan.rows // 2
    val_rows = (
        2 * round(half * plan.val_fraction)
        if plan.balance
        else round(plan.rows * plan.val_fraction)
    )
    for val_N, train_N in zip(splits.val, splits.train, strict=True):
        assert (len(val_N), len(train_N)) == (val_rows, plan.rows - val_rows)
        if plan.balance:
            assert 2 * labels_N[val_N].sum() == len(val_N)
            assert 2 * labels_N[train_N].sum() == len(train_N)
    if plan.balance_test:
        assert 2 * labels_N[splits.test].sum() == len(splits.test)

    if plan.group_by_question:
        questions_of = [set(question_ids_N[rows_N]) for rows_N in rows.values()]
        assert sum(map(len, questions_of)) == len(set.union(*questions_of))
        assert set(overlap(question_ids_N, splits).values()) == {0.0}

    assert same(rows, plan_splits(labels_N.copy(), question_ids_N.copy(), plan).named())
    assert not same(
        rows, plan_splits(labels_N, question_ids_N, replace(plan, seed=plan.seed + 1)).named()
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_rows_drawn_before_do_not_depend_on_later_phases(grouped: bool) -> None:
    labels_N, question_ids_N = source(2_000, 500)
    plan = replace(SMALL, group_by_question=grouped)
    two, three = (
        plan_splits(labels_N, question_ids_N, replace(plan, phases=phases)).named()
        for phases in (2, 3)
    )
    assert same(two, {name: three[name] for name in two})
    longer = plan_splits(labels_N, question_ids_N, replace(plan, rows=60))
    assert np.array_equal(longer.test, two["test"])


def test_single_rows_are_used_to_the_last() -> None:
    labels_N = np.arange(100) % 2 == 0
    plan = SplitPlan(phases=2, rows=40, val_fraction=0.1, test_rows=20)
    drawn = np.concatenate(list(plan_splits(labels_N, None, plan).named().values()))
    assert sorted(drawn) == list(range(100))


def test_groups_as_wide_as_their_split_are_used_to_the_last() -> None:
    labels_N, question_ids_N = np.arange(100) % 2 == 0, np.arange(100) // 20
    plan = SplitPlan(phases=2, rows=40, val_fraction=0.5, test_rows=20, group_by_question=True)
    drawn = np.concatenate(list(plan_splits(labels_N, question_ids_N, plan).named().values()))
    assert sorted(drawn) == list(range(100))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_group_ids_are_only_names(seed: int) -> None:
    labels_N, question_ids_N = source(1_000, 200, seed)
    plan = replace(SMALL, group_by_question=True)
    renamed = plan_splits(labels_N, question_ids_N * 7 - 500, plan)
    assert same(renamed.named(), plan_splits(labels_N, question_ids_N, plan).named())


def test_unbalanced_splits_keep_the_mix_of_the_source() -> None:
    labels_N, _ = source(20_000, 1, true_share=0.2)
    plan = SplitPlan(phases=1, rows=10_000, test_rows=4_000, balance=False, balance_test=False)
    splits = plan_splits(labels_N, None, plan)
    assert labels_N[splits.train[0]].mean() == pytest.approx(0.2, abs=0.02)  # five standard errors
    assert labels_N[splits.test].mean() == pytest.approx(0.2, abs=0.03)


def test_the_order_of_a_split_is_shuffled() -> None:
    labels_N, question_ids_N = source(4_000, 400)
    plan = SplitPlan(phases=1, rows=1_000, test_rows=0, group_by_question=True)
    train_N = plan_splits(labels_N, question_ids_N, plan).train[0]
    assert 0.4 < labels_N[train_N[: len(train_N) // 2]].mean() < 0.6
    neighbours = np.mean(question_ids_N[train_N][1:] == question_ids_N[train_N][:-1])
    assert neighbours < 0.05  # a question's ten rows side by side would give 0.8


def test_the_defaults_are_the_reports_sizes() -> None:
    labels_N, _ = source(200_000, 1)
    splits = plan_splits(labels_N, None, SplitPlan())
    assert [len(rows_N) for rows_N in splits.train] == [19_800] * 3
    assert [labels_N[rows_N].sum() for rows_N in splits.val] == [100] * 3
    assert labels_N[splits.test].sum() == 500


def test_overlap_is_the_share_of_rows_whose_question_is_trained_on() -> None:
    labels_N, question_ids_N = source(2_000, 150)
    splits = plan_splits(labels_N, question_ids_N, SMALL)
    trained = {int(question_ids_N[row]) for rows_N in splits.train for row in rows_N}
    shares = overlap(question_ids_N, splits)
    assert set(shares) == {"test", "val_1", "val_2"}
    for name, share in shares.items():
        rows_N = splits.named()[name]
        assert share == pytest.approx(
            sum(int(question_ids_N[row]) in trained for row in rows_N) / len(rows_N)
        )
    assert 0 < shares["test"] < 1
    none = plan_splits(labels_N, question_ids_N, replace(SMALL, test_rows=0, val_fraction=0.0))
    assert set(overlap(question_ids_N, none).values()) == {0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 41}, "rows=41: .*even.*balance=False"),
        ({"test_rows": 21}, "test_rows=21: .*even.*balance_test=False"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"val_fraction": -0.1}, "val_fraction=-0.1"),
        ({"val_fraction": float("nan")}, "val_fraction=nan"),
        ({"val_fraction": 0.01}, "20 rows of a class leaves 0 for validation"),
        ({"val_fraction": 0.99}, "0 for training"),
        ({"phases": 0}, "phases=0"),
        ({"rows": 0}, "rows=0"),
        ({"test_rows": -2}, "test_rows=-2"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
    ],
)
def test_impossible_plans_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_odd_sizes_are_fine_where_nothing_is_balanced() -> None:
    plan = replace(SMALL, rows=41, test_rows=21, balance=False, balance_test=False)
    splits = plan_splits(source(200, 10)[0], None, plan)
    assert len(splits.test) == 21
    assert len(splits.train[0]) + len(splits.val[0]) == 41


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("balance", [False, True])
def test_too_few_rows_are_refused_with_the_largest_that_fit(grouped: bool, balance: bool) -> None:
    labels_N, question_ids_N = source(1_000, 150)
    plan = replace(SMALL, rows=2_000, val_fraction=0.1, balance=balance, group_by_question=grouped)
    with pytest.raises(ValueError, match="Lower rows to at most") as caught:
        plan_splits(labels_N, question_ids_N, plan)
    message = str(caught.value)
    true = int(labels_N.sum())
    assert f"{true} True and {1_000 - true} False" in message
    largest = int(message.split("Lower rows to at most ")[1].split(",")[0].replace(",", ""))
    plan_splits(labels_N, question_ids_N, replace(plan, rows=largest))
    with pytest.raises(ValueError, match="Lower rows"):
        plan_splits(labels_N, question_ids_N, replace(plan, rows=largest + 2))
    if balance and not grouped:
        assert largest == 2 * ((true - 10) // 2)
        assert "need 2,010 True and 2,010 False" in message


def two_sources() -> tuple[np.ndarray, np.ndarray]:
    """Labels, half True, and sources of 600 rows: a third from the first."""
    return np.arange(600) // 3 % 2 == 0, np.minimum(np.arange(600) % 3, 1)


def test_every_split_has_the_shares_of_the_sources() -> None:
    labels_N, source_N = two_sources()
    plan = replace(SMALL, test_rows=24)
    splits = plan_splits(labels_N, None, plan, source_N, [0.75, 0.25])
    described = manifest("abc", plan, splits, labels_N, np.arange(600), source_N, ["a", "b"])
    sources = {name: split["sources"] for name, split in described["splits"].items()}
    assert sources["test"] == {"a": 18, "b": 6}
    # Of each class 2 and 18 rows: halves go to the first source.
    assert sources["val_1"] == sources["val_2"] == {"a": 4, "b": 0}
    assert sources["train_1"] == sources["train_2"] == {"a": 28, "b": 8}
    for rows_N in splits.named().values():
        for source in (0, 1):
            of_source_N = rows_N[source_N[rows_N] == source]
            assert 2 * labels_N[of_source_N].sum() == len(of_source_N)


def test_too_few_rows_of_a_source_are_refused_with_the_rows_of_each() -> None:
    labels_N, source_N = two_sources()
    with pytest.raises(ValueError) as caught:
        plan_splits(labels_N, None, replace(SMALL, rows=200), source_N, [0.75, 0.25])
    assert str(caught.value) == (
        "test_rows=20 and 2 phases of rows=200 need 210 True and 210 False rows; the source has "
        "100 True and 100 False for a share of 0.75; 200 True and 200 False for a share of 0.25, "
        "in the order of the sources. Lower rows to at most 122, phases or test_rows, or take a "
        "larger source."
    )


def test_too_few_questions_are_refused_with_their_number() -> None:
    labels_N, question_ids_N = source(1_000, 150)
    plan = replace(SMALL, rows=2_000, group_by_question=True, balance=False)
    n_questions = len(np.unique(question_ids_N))
    true = int(labels_N.sum())
    message = (
        rf"need 4,020 rows \(at least 10 of each class\); the source has {true} True and "
        rf"{1_000 - true} False on {n_questions} questions \(group_by_question"
    )
    with pytest.raises(ValueError, match=message):
        plan_splits(labels_N, question_ids_N, plan)


@pytest.mark.parametrize(
    ("size", "shares", "expected"),
    [
        (10, [0.5, 0.5], [5, 5]),
        (3, [0.5, 0.5], [2, 1]),
        (10, [0.26, 0.37, 0.37], [2, 4, 4]),
        (10, [0.28, 0.36, 0.36], [3, 4, 3]),
        (10, [0.1] * 10, [1] * 10),
        (0, [0.3, 0.7], [0, 0]),
    ],
)
def test_quotas_round_the_largest_remainders_up(
    size: int, shares: list[float], expected: list[int]
) -> None:
    assert quotas(size, shares) == expected


def test_sources_without_shares_change_nothing() -> None:
    labels_N, source_N = two_sources()
    plain = plan_splits(labels_N, None, SMALL).named()
    assert same(plain, plan_splits(labels_N, None, SMALL, source_N).named())
    assert same(plain, plan_splits(labels_N, None, SMALL, shares=[0.75, 0.25]).named())


def test_the_overlap_of_a_single_row_is_all_or_nothing() -> None:
    plan = SplitPlan(1, rows=4, val_fraction=0, test_rows=1, balance=False, balance_test=False)
    splits = plan_splits(np.arange(5) % 2 == 0, None, plan)
    assert overlap(np.zeros(5, dtype=np.int64), splits)["test"] == 1
    assert overlap(np.arange(5), splits)["test"] == 0


def test_empty_splits_come_back_as_row_numbers(tmp_path: Path) -> None:
    labels_N, question_ids_N = source(2_000, 150)
    plan = replace(SMALL, val_fraction=0, test_rows=0)
    splits = plan_splits(labels_N, question_ids_N, plan)
    path = tmp_path / "splits.json"
    write_manifest(path, manifest("abc", plan, splits, labels_N, question_ids_N), splits)
    _, read = read_manifest(path)
    assert same(read.named(), splits.named())
    assert {rows_N.dtype for rows_N in read.named().values()} == {np.dtype(np.int64)}


def test_a_phase_may_have_a_single_row() -> None:
    plan = SplitPlan(1, rows=1, val_fraction=0, test_rows=0, balance=False, seed=2**32 - 1)
    assert plan_splits(np.array([True, False]), None, plan).train[0].shape == (1,)


def test_a_draw_is_the_same_in_every_release() -> None:
    """A run that was split by an earlier release resumes only on the same rows."""
    labels_N, question_ids_N = np.arange(400) % 3 == 0, np.arange(400) // 10
    plan = SplitPlan(phases=1, rows=40, val_fraction=0.1, test_rows=6, group_by_question=True)
    splits = plan_splits(labels_N, question_ids_N, plan)
    assert splits.test.tolist() == [143, 146, 142, 141, 147, 144]
    assert splits.val[0].tolist() == [156, 150, 157, 158]


def test_a_test_set_that_takes_everything_is_named() -> None:
    with pytest.raises(ValueError, match="Lower phases, test_rows"):
        plan_splits(source(100, 10)[0], None, replace(SMALL, test_rows=5_000))


@pytest.mark.parametrize("value", [True, False])
def test_a_missing_class_is_named(value: bool) -> None:
    labels_N = np.full(500, value)
    with pytest.raises(ValueError, match=f"no {not value} row"):
        plan_splits(labels_N, None, SMALL)
    with pytest.raises(ValueError, match=f"no {not value} row"):
        plan_splits(labels_N, None, replace(SMALL, balance=False))
    splits = plan_splits(labels_N, None, replace(SMALL, balance=False, test_rows=0))
    assert len(splits.train) == 2


def test_grouping_without_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="question_ids_N"):
        plan_splits(source(500, 10)[0], None, replace(SMALL, group_by_question=True))


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no True row"):
        plan_splits(np.empty(0, bool), np.empty(0, np.int64), SMALL)


def test_the_manifest_comes_back_as_written(tmp_path: Path) -> None:
    labels_N, question_ids_N = source(2_000, 150)
    splits = plan_splits(labels_N, question_ids_N, SMALL)
    written = manifest("abc", SMALL, splits, labels_N, question_ids_N)
    path = tmp_path / "run" / "splits.json"
    write_manifest(path, written, splits)
    read, again = read_manifest(path)
    assert read == written
    assert same(again.named(), splits.named())
    assert again.test.dtype == np.int64
    assert SplitPlan(**read["plan"]) == SMALL
    assert read["splits"]["train_1"]["rows"] == 36
    assert read["splits"]["val_1"] | {"sha256": ""} == {
        "rows": 4,
        "true": 2,
        "overlap": overlap(question_ids_N, splits)["val_1"],
        "sha256": "",
    }
    assert (
        manifest(
            "abc", SMALL, plan_splits(labels_N, question_ids_N, SMALL), labels_N, question_ids_N
        )
        == written
    )
    other = plan_splits(labels_N, question_ids_N, replace(SMALL, seed=1))
    assert manifest("abc", SMALL, other, labels_N, question_ids_N) != written


def test_a_failed_write_leaves_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels_N, question_ids_N = source(2_000, 150)
    splits = plan_splits(labels_N, question_ids_N, SMALL)
    path = tmp_path / "splits.json"
    write_manifest(path, manifest("old", SMALL, splits, labels_N, question_ids_N), splits)

    def full_disk(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_manifest(path, manifest("new", SMALL, splits, labels_N, question_ids_N), splits)
    assert read_manifest(path)[0]["fingerprint"] == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_manifests_are_refused(tmp_path: Path) -> None:
    labels_N, question_ids_N = source(2_000, 150)
    splits = plan_splits(labels_N, question_ids_N, SMALL)
    path = tmp_path / "splits.json"
    with pytest.raises(ValueError, match="no split manifest"):
        read_manifest(path)
    write_manifest(path, manifest("abc", SMALL, splits, labels_N, question_ids_N), splits)
    text = path.read_text()

    fields = json.loads(text)
    fields["row_ids"]["val_2"][0] += 1
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"val_2 do not match their hashes\. Delete it to have"):
        read_manifest(path)

    del fields["row_ids"]["val_2"]
    for damaged in (
        json.dumps(fields),
        text[: len(text) // 2],
        "[]",
        '{"format_version": 1, "row_ids": {}}',
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="damaged"):
            read_manifest(path)

    path.write_text(text.replace('"format_version": 1', '"format_version": 0'))
    with pytest.raises(ValueError, match="expected format version 1, got 0"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("split", "message"),
    [("val", "validation rows.*val_fraction is 0"), ("test", "test rows.*test_rows is 0")],
)
def test_nothing_to_evaluate_on_is_one_message(split: str, message: str) -> None:
    labels_N, question_ids_N = source(500, 100)
    plan = replace(SMALL, val_fraction=0, test_rows=0)
    splits = plan_splits(labels_N, question_ids_N, plan)
    for rows_N in (splits.val[0], splits.test):
        with pytest.raises(ValueError, match=rf"^expected {message}.*predict\.$"):
            check_held_out(split, rows_N, plan)
    check_held_out(split, splits.train[0], plan)
