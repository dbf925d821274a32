"""Metrics equal scikit-learn's, intervals cover what they should, undefined ones are null."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.metrics.scores import (
    both_classes,
    check_collapse,
    metric_values,
    roc,
    score,
    score_slices,
    upper_quantile,
)


def rows(many: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_N = rng.random(many) < 0.4
    log_odds_N = rng.normal(0, 2, many) + 1.5 * (labels_N - 0.5)
    return labels_N, np.round(log_odds_N) if ties else log_odds_N


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_values_are_scikit_learns(ties: bool, threshold: float) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    labels_N, log_odds_N = rows(500, 1, ties)
    verdicts_N, probabilities_N = log_odds_N > threshold, 1 / (1 + np.exp(-log_odds_N))
    found = score(labels_N, log_odds_N, threshold)
    expected = {
        "accuracy": sk.accuracy_score(labels_N, verdicts_N),
        "balanced_accuracy": sk.balanced_accuracy_score(labels_N, verdicts_N),
        "precision": sk.precision_score(labels_N, verdicts_N),
        "recall": sk.recall_score(labels_N, verdicts_N),
        "f1": sk.f1_score(labels_N, verdicts_N),
        "mcc": sk.matthews_corrcoef(labels_N, verdicts_N),
        "auroc": sk.roc_auc_score(labels_N, log_odds_N),
        "average_precision": sk.average_precision_score(labels_N, log_odds_N),
        "brier": sk.brier_score_loss(labels_N, probabilities_N),
        "log_loss": sk.log_loss(labels_N, probabilities_N),
    }
    assert {name: found.values[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (
        list(found.confusion.values()) == sk.confusion_matrix(labels_N, verdicts_N).ravel().tolist()
    )


def test_a_case_by_hand() -> None:
    found = score(np.array([True, True, False, False]), np.array([2.0, -1.0, 1.0, -3.0]))
    assert found.values["accuracy"] == found.values["precision"] == found.values["recall"] == 0.5
    assert found.values["auroc"] == pytest.approx(0.75) and found.values["mcc"] == pytest.approx(0)
    assert found.confusion == {
        "true_negative": 1,
        "false_positive": 1,
        "false_negative": 1,
        "true_positive": 1,
    }


def test_ece_is_zero_where_every_probability_is_its_frequency() -> None:
    log_odds_N = np.log(np.repeat([0.25, 0.5, 0.75], 4) / np.repeat([0.75, 0.5, 0.25], 4))
    labels_N = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    assert score(labels_N, log_odds_N).values["ece"] == pytest.approx(0, abs=1e-7)
    assert score(labels_N, log_odds_N + 2).values["ece"] > 0.2


def test_log_odds_too_large_for_a_probability_still_rank() -> None:
    assert score(np.array([False, True]), np.array([50.0, 60.0])).values["auroc"] == 1


ONLY_FALSE = {
    "auroc_within_question",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "mcc",
    "auroc",
    "average_precision",
}


@pytest.mark.parametrize(
    ("labels", "log_odds", "undefined"),
    [
        ([], [], {*ONLY_FALSE, "accuracy", "brier", "ece", "log_loss"}),
        (
            [True, True],
            [1.0, -1.0],
            {"balanced_accuracy", "mcc", "auroc", "auroc_within_question"},
        ),
        ([False, False], [-1.0, -2.0], ONLY_FALSE),
        ([True, False], [1.0, 2.0], {"mcc", "auroc_within_question"}),
    ],
)
def test_what_is_undefined_is_null(
    labels: list[bool], log_odds: list[float], undefined: set[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(np.array(labels, dtype=bool), np.array(log_odds))
    assert {name for name, value in found.values.items() if math.isnan(value)} == undefined
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))["metrics"]
    for name, value in found.values.items():
        assert (written[name]["value"] is None) == math.isnan(value)
        assert (written[name]["interval"] == [None, None]) == math.isnan(value)


def test_the_interval_of_accuracy_is_the_binomial_one() -> None:
    labels_N, log_odds_N = rows(1_000, 3)
    found = score(labels_N, log_odds_N)
    accuracy = found.values["accuracy"]
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1_000)
    assert found.intervals["accuracy"] == pytest.approx(
        (accuracy - half, accuracy + half), abs=0.004
    )


def test_the_same_seed_gives_the_same_intervals() -> None:
    labels_N, log_odds_N = rows(300, 4)
    one, same, other = (
        score(labels_N, log_odds_N, question_ids_N=np.arange(300) // 3, seed=seed)
        for seed in (2, 2, 1)
    )
    assert one == same and one.intervals != other.intervals


@pytest.mark.parametrize("seed", [3407, 1])
def test_questions_of_one_row_are_rows(seed: int) -> None:
    """Whatever their numbers are: the plain bootstrap, draw for draw."""
    labels_N, log_odds_N = rows(150, 7)
    questions_N = np.random.default_rng(seed).permutation(1_000)[:150]
    plain, grouped = (
        score(labels_N, log_odds_N, question_ids_N=groups, seed=seed)
        for groups in (None, questions_N)
    )
    assert grouped.intervals == plain.intervals and grouped.units == plain.units == 150
    assert (plain.resampled, grouped.resampled) == ("rows", "questions")
    values_NK = np.column_stack([labels_N, log_odds_N])
    assert np.array_equal(
        mean_interval(values_NK, questions_N, seed=seed), mean_interval(values_NK, seed=seed)
    )


@settings(max_examples=20, deadline=None)
@given(times=st.integers(2, 5), seed=st.integers(0, 1_000), ties=st.booleans())
def test_a_row_told_several_times_is_told_once(times: int, seed: int, ties: bool) -> None:
    """Copies of the rows of a question are no evidence; taken as independent, they seem so."""
    labels_N, log_odds_N = rows(120, seed, ties)
    once = score(labels_N, log_odds_N)
    copies = [np.repeat(values_N, times) for values_N in (labels_N, log_odds_N)]
    several = score(*copies, question_ids_N=np.repeat(np.arange(120)[::-1], times))
    naive = score(*copies)
    for name in (
        "accuracy",
        "balanced_accuracy",
        "auroc",
        "average_precision",
        "f1",
        "mcc",
        "ece",
        "log_loss",
    ):
        assert several.intervals[name] == pytest.approx(once.intervals[name], abs=1e-9)
        low, high = several.intervals[name]
        # The square root of 2 and more, within the error of a thousand resamples; ECE is biased
        # upwards in every resample, which narrows its interval.
        ratio = 1.1 if name == "ece" else 1.2
        assert high - low > ratio * (naive.intervals[name][1] - naive.intervals[name][0])
    assert several.units == 120
    bounds = [mean_interval(values_N[:, None]) for values_N in (log_odds_N, copies[1])]
    assert mean_interval(copies[1][:, None], np.repeat(np.arange(120), times)) == pytest.approx(
        bounds[0]
    )
    assert np.diff(bounds[1]) < np.diff(bounds[0])


def test_the_interval_within_questions_resamples_questions() -> None:
    """Copies of questions' rows narrow it only when they are taken as further questions."""
    rng = np.random.default_rng(2)
    questions_N = np.repeat(np.arange(60), 4)
    labels_N = rng.random(240) < 0.5
    log_odds_N = rng.normal(0, 1, 240) + labels_N
    name = "auroc_within_question"
    once = score(labels_N, log_odds_N, question_ids_N=questions_N)
    twice = [np.tile(values_N, 2) for values_N in (labels_N, log_odds_N)]
    same = score(*twice, question_ids_N=np.tile(questions_N, 2))
    more = score(*twice, question_ids_N=np.r_[questions_N, questions_N + 60])
    low, high = once.intervals[name]
    assert 0.6 < low < once.values[name] < high < 0.9
    assert same.values[name] == more.values[name] == pytest.approx(once.values[name])
    assert same.intervals[name] == pytest.approx(once.intervals[name])
    assert more.intervals[name][1] - more.intervals[name][0] < 0.85 * (high - low)
    assert math.isnan(score(labels_N, log_odds_N).values[name])


def test_slices_hold_every_row_once() -> None:
    labels_N, log_odds_N = rows(200, 5)
    lengths_N = np.random.default_rng(0).integers(1, 300, 200)
    parts_N = upper_quantile(lengths_N, 4)
    sliced = score_slices(parts_N, labels_N, log_odds_N)
    assert (
        list(map(int, sliced)) == sorted(map(int, sliced))
        and int(list(sliced)[-1]) == lengths_N.max()
    )
    assert sum(part.rows for part in sliced.values()) == 200 and all(
        45 <= part.rows <= 55 for part in sliced.values()
    )
    weighted = sum(part.rows * part.values["accuracy"] for part in sliced.values()) / 200
    assert weighted == pytest.approx(score(labels_N, log_odds_N).values["accuracy"])
    grouped = score_slices(
        np.array(["b", "a"] * 100), labels_N, log_odds_N, question_ids_N=np.arange(200) // 4
    )
    assert {name: part.units for name, part in grouped.items()} == {"a": 50, "b": 50} and list(
        grouped
    ) == ["a", "b"]


@given(values=st.lists(st.integers(0, 50), max_size=60), parts=st.integers(1, 6))
def test_a_quantile_part_ends_at_its_name(values: list[int], parts: int) -> None:
    values_N = np.array(values, dtype=int)
    upper_N = upper_quantile(values_N, parts)
    assert (
        (upper_N >= values_N).all() and set(upper_N) <= set(values) and len(set(upper_N)) <= parts
    )


def test_the_alarm_rings_when_one_class_takes_nearly_all() -> None:
    labels_N, log_odds_N = rows(1_000, 6)
    assert score(labels_N, log_odds_N).alarm is None
    assert "99.2% of 1,000 predictions are False" in str(
        score(labels_N, np.where(np.arange(1_000) < 8, 1.0, -1.0)).alarm
    )
    assert "are True" in str(score(labels_N, np.ones(1_000)).alarm)


def test_mistaken_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one bool .*int64\[2\]"):
        score(np.array([1, 0]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="one bool and one number per row"):
        score(np.array([True, False]), np.array([1.0]))
    with pytest.raises(ValueError, match="1 rows are not finite, the first is row 1"):
        score(np.array([True, False]), np.array([1.0, np.nan]))


def test_a_metric_that_no_resample_defines_has_no_interval() -> None:
    """One True row among many: a single resample may well miss it."""
    labels_N = np.arange(40) == 0
    found = [score(labels_N, np.linspace(1, -1, 40), resamples=1, seed=seed) for seed in range(5)]
    assert all(one.values["auroc"] == pytest.approx(1) for one in found)
    assert any(math.isnan(one.intervals["auroc"][0]) for one in found)
    np.testing.assert_equal(metric_values(labels_N, np.linspace(1, -1, 40)), found[0].values)


def test_the_roc_curve_has_a_point_per_distinct_log_odds() -> None:
    """Ties enter together; log-odds whose probabilities are both 1 do not tie."""
    labels_N = np.array([True, False, True, False, True])
    false_rate, true_rate = roc(labels_N, np.array([60.0, 50.0, -1.0, -1.0, -2.0]))
    assert false_rate.tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert true_rate.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])
    with pytest.raises(ValueError, match="got 2 True and 0 False"):
        roc(np.array([True, True]), np.zeros(2))


def test_both_classes_are_required() -> None:
    labels_N, log_odds_N = both_classes([True, False, False], [1, 2, 3])
    assert labels_N.dtype == bool and log_odds_N.dtype == np.float64
    assert labels_N.tolist() == [True, False, False] and log_odds_N.tolist() == [1, 2, 3]
    for value, counts in ((True, "3 True and 0 False"), (False, "0 True and 3 False")):
        with pytest.raises(ValueError, match=f"expected rows of both classes, got {counts} rows"):
            both_classes(np.full(3, value), np.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        both_classes(np.array([True, False]), np.array([np.inf, 0]))


@pytest.mark.parametrize(("true", "share"), [(99, "99.0%"), (1, "99.0%"), (98, None), (2, None)])
def test_the_alarm_rings_from_its_share_on(true: int, share: str | None) -> None:
    message = check_collapse(np.arange(100) < true)
    assert (message is None) == (share is None)
    if message is not None:
        assert message.startswith(f"{share} of 100 predictions are {true > 50}: ")
    assert check_collapse(np.zeros(0, dtype=bool)) is None


def test_slices_are_scored_at_the_threshold() -> None:
    """At 0 both predictions are True, at 1.5 only the second is."""
    labels_N, log_odds_N = np.array([False, True]), np.array([1.0, 2.0])
    (scores,) = score_slices(np.array(["a", "a"]), labels_N, log_odds_N, threshold=1.5).values()
    assert scores.values["accuracy"] == 1 and scores.confusion["true_positive"] == 1
    assert scores.true_rows == 1 and scores.rows == 2 and scores.resampled == "rows"
    assert metric_values(labels_N, log_odds_N, 1.5)["accuracy"] == 1
    assert metric_values(labels_N, log_odds_N)["accuracy"] == 0.5


def test_scores_are_stored_under_the_names_of_their_fields() -> None:
    labels_N, log_odds_N = rows(50, 8)
    found = score(labels_N, log_odds_N, question_ids_N=np.arange(50) // 2)
    stored = found.to_json()
    assert stored.keys() == {
        "rows",
        "true_rows",
        "resampled",
        "units",
        "metrics",
        "confusion",
        "alarm",
    }
    assert (stored["rows"], stored["units"], stored["resampled"]) == (50, 25, "questions")
    assert stored["true_rows"] == labels_N.sum() and stored["alarm"] is None
    assert sum(stored["confusion"].values()) == 50
    low, high = stored["metrics"]["accuracy"]["interval"]
    assert low < stored["metrics"]["accuracy"]["value"] < high
