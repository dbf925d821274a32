"""Figures show the numbers they were given; how they look was judged by eye."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mv_lightning.metrics import plots
from mv_lightning.metrics.comparison import Interval
from mv_lightning.metrics.scores import score, score_slices, upper_quantile

pytest.importorskip("matplotlib")
RNG = np.random.default_rng(0)
LABELS_N = RNG.random(300) < 0.4
ODDS_N = RNG.normal(0, 2, 300) + 2 * LABELS_N
LENGTHS_N = RNG.integers(1, 500, 300)
PHASES = [
    plots.PhaseLoss("phase 1", [1, 2, 3], [1.2, 1.1, 1.0], [3], [1.05]),
    plots.PhaseLoss("phase 2", [4], [0.9], [], []),
]
INTERVALS = [Interval(0.6, 0.5, 0.7), Interval(0.8, float("nan"), float("nan"))]
CURVE = [*INTERVALS, INTERVALS[0]]
ROWS_P = np.array([10, 20, 40])
POINTS = [
    plots.SettingPoint("8", "alpha=4", [INTERVALS[0]]),
    plots.SettingPoint("4", "alpha=4", [INTERVALS[1]]),
    plots.SettingPoint("4", "alpha=8", [INTERVALS[0]]),
]


def texts(axes: object) -> set[str]:
    return {text.get_text() for text in axes.texts}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.loss_curve(PHASES),
        lambda: plots.roc_curve(LABELS_N, ODDS_N),
        lambda: plots.reliability(LABELS_N, ODDS_N),
        lambda: plots.confusion_matrix(score(LABELS_N, ODDS_N)),
        lambda: plots.accuracy_by(
            score_slices(upper_quantile(LENGTHS_N), LABELS_N, ODDS_N), "words"
        ),
        lambda: plots.log_odds_histogram(LABELS_N, ODDS_N),
        lambda: plots.length_histogram(
            {"question": LENGTHS_N, "solution": LENGTHS_N * 3}, "words", "Lengths", (512,)
        ),
        lambda: plots.metric_by_setting(POINTS, ["4", "8"], "model.lora.r", ["accuracy"]),
        lambda: plots.learning_curve(ROWS_P[:2], INTERVALS, ROWS_P, CURVE, "AUROC", [0.8]),
        lambda: plots.length_histogram(
            {"none": LENGTHS_N[:0], "zero": LENGTHS_N * 0}, "words", "Lengths"
        ),
    ],
)
def test_the_same_figure_gives_the_same_png(figure: object, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plots.save_png(figure(), tmp_path / name)  # type: ignore[operator]
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "b.png").read_bytes()


def test_phases_are_named_and_divided() -> None:
    (axes,) = plots.loss_curve(PHASES).axes
    assert texts(axes) == {"phase 1", "phase 2"}
    borders = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert borders == [3.5]


def test_the_first_steps_do_not_hide_the_others() -> None:
    steps = list(range(100))
    phase = plots.PhaseLoss("phase 1", steps, [8.0, 7.0, *[0.7] * 97, 0.5], [99], [0.8])
    (axes,) = plots.loss_curve([phase]).axes
    assert 0.8 < axes.get_ylim()[1] < 1.5
    (axes,) = plots.loss_curve([plots.PhaseLoss("phase 1", steps, [0.7] * 100, [99], [3.0])]).axes
    assert 3 < axes.get_ylim()[1] < 3.5


def test_the_reliability_diagram_counts_every_row() -> None:
    above, below = plots.reliability(LABELS_N, ODDS_N).axes
    assert sum(bar.get_height() for bar in below.patches) == 300
    assert f"ECE {score(LABELS_N, ODDS_N).values['ece']:.3f}" in above.get_title(loc="left")


def test_the_confusion_matrix_shows_its_cells() -> None:
    scores = score(LABELS_N, ODDS_N)
    (axes,) = plots.confusion_matrix(scores).axes
    assert [int(text.get_text().split("\n")[0]) for text in axes.texts] == list(
        scores.confusion.values()
    )


def test_a_slice_without_rows_of_a_class_is_drawn() -> None:
    (axes,) = plots.accuracy_by(score_slices(LABELS_N, LABELS_N, ODDS_N), "label").axes
    assert [label.get_text().split("\n")[0] for label in axes.get_xticklabels()] == [
        "False",
        "True",
    ]


def test_users_settings_do_not_mix_in() -> None:
    import matplotlib

    with matplotlib.rc_context({"axes.facecolor": "black"}):
        (axes,) = plots.log_odds_histogram(LABELS_N, ODDS_N).axes
        assert axes.get_facecolor()[:3] == (1, 1, 1)
        assert matplotlib.rcParams["axes.facecolor"] == "black"


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"mv-lightning\[plots\]"):
        plots.log_odds_histogram(LABELS_N, ODDS_N)


def test_settings_are_in_their_order_and_series_have_colours() -> None:
    (axes,) = plots.metric_by_setting(POINTS, ["4", "8"], "model.lora.r", ["accuracy"]).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["4", "8"]
    connected = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert connected[0].get_ydata().tolist() == [0.6, 0.8]
    assert connected[0].get_xdata()[0] > connected[0].get_xdata()[1]


def test_the_extrapolated_part_of_a_learning_curve_is_dashed() -> None:
    (axes,) = plots.learning_curve(ROWS_P[:2], INTERVALS, ROWS_P, CURVE, "AUROC").axes
    dashed = [line.get_xdata().tolist() for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [[40]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "20", "40"]
