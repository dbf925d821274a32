"""Several sources: every row once, shares as asked for, questions kept together across sources."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.mixture import SourceSettings, load_sources
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import SplitPlan, manifest, plan_splits, quotas
from mv_lightning.schema import DEFAULT_SEED
from tests.data.files import ROWS, write_arrow_file, write_csv, write_jsonl


def rows_of(name: str, n: int) -> list[dict[str, Any]]:
    """Two rows a question, one of them right; question 0 is in every source."""
    rows = []
    for i in range(n):
        question = f"{name} {i // 2}?" if i >= 2 else "The same question in all?"
        row = {"question": question, "answer": str(i), "solution": name}
        rows.append({**row, "is_correct": i % 2 == 0})
    return rows


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """Three sources of 400, 200 and 100 rows in several formats."""
    write_csv(tmp_path / "a.csv", rows_of("a", 400))
    write_jsonl(tmp_path / "b.jsonl", [dict(row, error="slip") for row in rows_of("b", 200)])
    renamed = []
    for row in rows_of("c", 100):
        renamed.append({"expected": int(row.pop("is_correct")), "is_correct": "?", **row})
    write_jsonl(tmp_path / "c.jsonl", renamed)
    return {name: str(next(tmp_path.glob(f"{name}.*"))) for name in "abc"}


def test_one_name_is_the_source_itself(paths: dict[str, str]) -> None:
    one = load_source(paths["a"])
    for sources in (paths["a"], [SourceSettings(paths["a"])], [{"path": paths["a"]}]):
        source = load_sources(sources)
        assert source.fingerprint == one.fingerprint and source.counts == one.counts
        assert source.source_N is None and source.shares is None


def test_sources_are_joined_in_order(paths: dict[str, str]) -> None:
    source = load_sources(
        [
            SourceSettings(paths["b"], name="second"),
            SourceSettings(paths["c"], columns={"expected": "is_correct"}),
            SourceSettings(paths["a"]),
        ]
    )
    assert source.source_N is not None and source.labels_N is not None
    assert source.source_names == ["second", paths["c"], paths["a"]]
    assert source.name == " + ".join(source.source_names)
    assert np.bincount(source.source_N).tolist() == [200, 100, 400]
    solutions = np.array(source.table["solution"][:])
    assert (solutions == np.array(["b", "c", "a"])[source.source_N]).all()
    assert source.labels_N.tolist() == [True, False] * 350
    assert set(source.table["error"][:200]) == {"slip"} and set(source.table["error"][200:]) == {""}
    # One question in all three, the others in one each.
    assert source.counts["distinct_questions"] == 1 + 99 + 49 + 199
    same = source.question_ids_N == source.question_ids_N[0]
    assert np.flatnonzero(same).tolist() == [0, 1, 200, 201, 300, 301]
    assert source.counts["rows"] == 700 and source.ids == [str(row) for row in range(700)]


def test_a_number_of_rows_is_drawn_and_stays_the_same(paths: dict[str, str]) -> None:
    settings = [SourceSettings(paths["a"], rows=30), SourceSettings(paths["b"], rows=200)]
    source = load_sources(settings)
    again = load_sources(settings)
    assert source.fingerprint == again.fingerprint
    assert np.bincount(source.source_N).tolist() == [30, 200]  # type: ignore[arg-type]
    drawn = source.table["answer"][:30]
    assert len(set(drawn)) == 30 and set(drawn) != {str(i) for i in range(30)}
    with pytest.raises(ValueError, match=r"a\.csv: expected 401 rows, got 400"):
        load_sources([SourceSettings(paths["a"], rows=401)])


def test_drawn_rows_are_the_first_of_a_permutation_in_file_order(tmp_path: Path) -> None:
    """In whatever chunks the file is stored."""
    rows = [dict(row, solution=f"{number}") for number, row in enumerate(ROWS * 6)]
    write_arrow_file(tmp_path / "rows.arrow", rows)
    source = load_sources([SourceSettings(str(tmp_path / "rows.arrow"), rows=7)])
    drawn = np.sort(np.random.default_rng(DEFAULT_SEED).permutation(30)[:7]).tolist()
    assert source.table["solution"][:] == [str(row) for row in drawn]
    assert source.labels_N is not None
    assert source.labels_N.tolist() == [rows[row]["is_correct"] for row in drawn]


def test_the_fingerprint_covers_content_sources_and_shares(paths: dict[str, str]) -> None:
    a, b = SourceSettings(paths["a"]), SourceSettings(paths["b"])
    half = [dataclasses.replace(a, share=0.5), dataclasses.replace(b, share=0.5)]
    third = [dataclasses.replace(a, share=0.25), dataclasses.replace(b, share=0.75)]
    named = [dataclasses.replace(a, name="x"), b]
    variants = [[a, b], [b, a], half, third, [dataclasses.replace(a, rows=399), b]]
    fingerprints = [load_sources(variant).fingerprint for variant in variants]
    assert len(set(fingerprints)) == len(variants)
    # A name, a format and a place are not the content.
    assert load_sources(named).fingerprint == fingerprints[0]
    # Where one source ends and the next begins is.
    path = Path(paths["a"]).with_name("part.csv")
    rows = rows_of("a", 400)
    write_csv(path, rows[:100])
    write_csv(path.with_name("rest.csv"), rows[100:])
    parts = [SourceSettings(str(path)), SourceSettings(str(path.with_name("rest.csv")))]
    joined = load_sources(parts)
    assert joined.fingerprint != load_source(paths["a"]).fingerprint
    assert joined.table.to_list() == load_source(paths["a"]).table.to_list()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "expected at least 1 row, got rows=0"),
        ({"share": 0.0}, "expected a share above 0 and up to 1, got 0.0"),
        ({"share": 1.5}, "expected a share above 0 and up to 1, got 1.5"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceSettings("rows.csv", **change)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "expected one source or more"),
        ([{"path": "x"}, {"path": "x"}], "each with a name of its own"),
        ([{"path": "x", "share": 0.5}, {"path": "y"}], "expected a share for every source"),
        ([{"path": "x", "share": 0.5}, {"path": "y", "share": 0.6}], "1 in all, got .0.5, 0.6."),
    ],
)
def test_sources_that_do_not_fit_together_are_refused(sources: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_sources(sources)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"expected": "label"}, r"expected the names question, .*'label'"),
        ({"expected": "is_correct", "is_correct": "is_correct"}, "each for one column at most"),
        ({"wanted": "is_correct"}, "no column wanted to rename; the columns are .*expected"),
    ],
)
def test_wrong_names_of_columns_are_refused(
    columns: dict[str, str], message: str, paths: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=message):
        load_source(paths["c"], columns=columns)


def test_a_renamed_class_label_is_still_read_by_name(tmp_path: Path) -> None:
    import datasets

    features = {name: datasets.Value("string") for name in ("question", "answer", "solution")}
    features["graded"] = datasets.ClassLabel(names=["correct", "incorrect"])
    rows = [{**row, "graded": 1 - row["is_correct"]} for row in ROWS]
    for row in rows:
        del row["is_correct"]
    saved = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    saved.save_to_disk(str(tmp_path / "saved"))
    source = load_source(str(tmp_path / "saved"), columns={"graded": "is_correct"})
    assert source.labels_N is not None
    assert source.labels_N.tolist() == [row["is_correct"] for row in ROWS]


@given(size=st.integers(0, 500), weights=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_quotas_are_whole_and_nearest(size: int, weights: list[int]) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = quotas(size, shares)
    assert sum(counts) == size
    assert all(abs(count - size * share) < 1 for count, share in zip(counts, shares, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    balance=st.booleans(),
    grouped=st.booleans(),
    seed=st.integers(0, 1_000),
)
def test_every_split_has_the_shares(
    weights: list[int], balance: bool, grouped: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    source_N = rng.permutation(np.repeat(np.arange(len(weights)), 3_000))
    labels_N = rng.random(len(source_N)) < 0.4
    question_ids_N = rng.integers(0, 2_500, len(source_N))  # across sources
    plan = SplitPlan(
        phases=2,
        rows=100,
        val_fraction=0.2,
        test_rows=40,
        balance=balance,
        group_by_question=grouped,
        seed=seed,
    )
    shares = [weight / sum(weights) for weight in weights]
    splits = plan_splits(labels_N, question_ids_N, plan, source_N, shares)
    named = splits.named()
    drawn = np.concatenate(list(named.values()))
    assert len(np.unique(drawn)) == len(drawn) == 240
    for name, rows_N in named.items():
        classes = 2 if balance or name == "test" else 1
        counts = np.bincount(source_N[rows_N], minlength=len(weights))
        expected = [classes * count for count in quotas(len(rows_N) // classes, shares)]
        assert counts.tolist() == expected
        if classes == 2:
            assert 2 * labels_N[rows_N].sum() == len(rows_N)
    if grouped:
        questions = Counter()
        for rows_N in named.values():
            questions.update(set(question_ids_N[rows_N].tolist()))
        assert max(questions.values()) == 1
    again = plan_splits(labels_N, question_ids_N, plan, source_N, shares)
    assert all(np.array_equal(named[name], rows_N) for name, rows_N in again.named().items())
    written = manifest("x", plan, splits, labels_N, question_ids_N, source_N, ["p", "q", "r"])
    assert sum(written["splits"]["train_1"]["sources"].values()) == len(splits.train[0])


def test_one_source_or_no_shares_draw_as_before() -> None:
    labels_N = np.arange(400) % 2 == 0
    plan = SplitPlan(phases=1, rows=100, val_fraction=0.1, test_rows=20)
    plain = plan_splits(labels_N, None, plan).named()
    source_N = np.arange(400) // 200
    unshared = plan_splits(labels_N, None, plan, source_N, None).named()
    one = plan_splits(labels_N, None, plan, np.zeros(400, dtype=np.int64), [1.0]).named()
    for name, rows_N in plain.items():
        assert np.array_equal(rows_N, unshared[name]) and np.array_equal(rows_N, one[name])


def test_a_source_that_is_too_small_is_named_with_what_fits() -> None:
    source_N = np.repeat([0, 1], [1_000, 100])
    labels_N = np.arange(1_100) % 2 == 0
    plan = SplitPlan(phases=1, rows=400, val_fraction=0.1, test_rows=20)
    with pytest.raises(ValueError, match=r"50 True and 50 False for a share of 0\.5") as caught:
        plan_splits(labels_N, None, plan, source_N, [0.5, 0.5])
    largest = int(str(caught.value).split("Lower rows to at most ")[1].split(",")[0])
    fits = dataclasses.replace(plan, rows=largest)
    plan_splits(labels_N, None, fits, source_N, [0.5, 0.5])
    with pytest.raises(ValueError, match="Lower rows"):
        larger = dataclasses.replace(plan, rows=largest + 2)
        plan_splits(labels_N, None, larger, source_N, [0.5, 0.5])
