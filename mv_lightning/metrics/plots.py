"""The figures of a run and of a source, in one style. They need the extra `plots` (matplotlib).

Blue is True and orange is False in every figure; the colours are those of Okabe and Ito (2008),
which colour-blind readers can distinguish. Nothing here uses pyplot, so no display is needed and no
global state changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.atomic import atomic_file
from mv_lightning.metrics.comparison import Interval
from mv_lightning.metrics.scores import Scores, checked, metric_values, roc
from mv_lightning.numerics import sigmoid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

TRUE, FALSE, NEUTRAL, ACCENT = "#0072B2", "#E69F00", "#6E6E6E", "#009E73"
STYLE: dict[Any, Any] = {
    "figure.figsize": (6.4, 4.2),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
}
SERIES = (TRUE, FALSE, ACCENT, "#CC79A7", "#56B4E9", "#D55E00", NEUTRAL, "#000000")
"""Colours of lines that are neither True nor False."""
RELIABILITY_BINS = 10


@dataclass(frozen=True)
class PhaseLoss:
    """The loss of one phase, as it was logged."""

    name: str
    steps: Sequence[int]
    """Optimizer steps counted over all phases."""
    train: Sequence[float]
    """Training loss at each of them."""
    val_steps: Sequence[int]
    val: Sequence[float]
    """Validation loss at each of `val_steps`."""


@dataclass(frozen=True)
class SettingPoint:
    """The results of one combination of settings."""

    setting: str
    """Its value on the axis of the figure."""
    series: str
    """Its other values; points with the same are connected."""
    intervals: Sequence[Interval]
    """One for each metric of the figure."""


def loss_curve(phases: Sequence[PhaseLoss]) -> Figure:
    """Draw training and validation loss over all phases, with a vertical line where a phase ends.

    The loss of the first steps is many times that of all later ones. It may exceed the limits of
    the plot, so that later differences stay visible.

    Args:
        phases: In order; steps continue from one to the next.
    """
    figure, axes = _figure("Loss over the phases", "optimizer step", "loss", room_above=True)
    steps = sum(len(phase.train) for phase in phases)
    for phase in phases:
        # Thousands of single steps form a band: in front of it is their running mean.
        window = max(1, min(len(phase.train), steps // 40))
        axes.plot(phase.steps, phase.train, color=TRUE, alpha=0.25, linewidth=0.8)
        smooth = np.convolve(phase.train, np.full(window, 1 / window), mode="valid")
        middle = (window - 1) // 2
        axes.plot(phase.steps[middle : middle + len(smooth)], smooth, color=TRUE)
        axes.plot(phase.val_steps, phase.val, color=FALSE, marker="o", markersize=4)
    for before, after in pairwise(phases):
        _border(axes, (before.steps[-1] + after.steps[0]) / 2)
    for phase in phases:
        _above(axes, (phase.steps[0] + phase.steps[-1]) / 2, phase.name)
    train = np.concatenate([phase.train for phase in phases])
    val = np.concatenate([phase.val for phase in phases])
    axes.set_ylim(0, 1.1 * max(1.4 * np.quantile(train, 0.95), val.max(initial=0)))
    _legend(axes, {"training (running mean)": TRUE, "validation": FALSE})
    return figure


def roc_curve(labels_N: np.ndarray, log_odds_N: np.ndarray) -> Figure:
    """Draw the ROC curve.

    Args:
        labels_N: bool [N], both classes.
        log_odds_N: float64 [N].

    Raises:
        ValueError: See `scores.roc`.
    """
    false_rate, true_rate = roc(labels_N, log_odds_N)
    area = np.trapezoid(true_rate, false_rate)
    figure, axes = _figure(
        f"ROC, area {area:.3f}", "false positive rate", "true positive rate", square=True
    )
    _diagonal(axes, "by chance")
    axes.plot(false_rate, true_rate, color=TRUE)
    return figure


def reliability(labels_N: np.ndarray, log_odds_N: np.ndarray) -> Figure:
    """Draw the share of True rows by predicted probability, and the number of rows.

    Args:
        labels_N: bool [N].
        log_odds_N: float64 [N].
    """
    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    probabilities_N = sigmoid(log_odds_N)
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    bins_N = np.minimum((probabilities_N * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    count = np.bincount(bins_N, minlength=RELIABILITY_BINS)
    filled = count > 0
    predicted = np.bincount(bins_N, probabilities_N, RELIABILITY_BINS)[filled] / count[filled]
    observed = np.bincount(bins_N, labels_N, RELIABILITY_BINS)[filled] / count[filled]
    ece = metric_values(labels_N, log_odds_N)["ece"]
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 5.6))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.set_title(f"Reliability, ECE {ece:.3f}")
        _diagonal(above, "calibrated")
        above.plot(predicted, observed, color=TRUE, marker="o", markersize=6)
        above.set(ylabel="share that is True", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        width = 1 / RELIABILITY_BINS
        bars = below.bar(edges[:-1], count, width, align="edge", color=TRUE, edgecolor="white")
        labels = [f"{rows:,}" if rows else "" for rows in count]
        below.bar_label(bars, labels, fontsize=8, padding=2)
        below.margins(y=0.25)
        below.set(xlabel="predicted probability of True", ylabel="rows")
    return figure


def confusion_matrix(scores: Scores) -> Figure:
    """Draw the number of rows of each label with each verdict, and their share of the label.

    Args:
        scores: See `scores.score`.
    """
    cells = np.array(list(scores.confusion.values())).reshape(2, 2)
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    figure, axes = _figure(f"Verdicts on {scores.rows:,} rows", "verdict", "label", square=True)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(cells):
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%}"
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=14, color=colour)
    axes.set_xticks([0, 1], ["False", "True"])
    axes.set_yticks([0, 1], ["False", "True"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def accuracy_by(slices: Mapping[str, Scores], what: str) -> Figure:
    """Draw the accuracy of each slice with its interval.

    Args:
        slices: See `scores.score_slices`.
        what: The meaning of the slices' names, such as "words of the solution, at most".
    """
    figure, axes = _figure("Accuracy with 95 % interval", what, "accuracy")
    for place, part in enumerate(slices.values()):
        low, high = part.intervals["accuracy"]
        value = part.values["accuracy"]
        error = [[value - low], [high - value]]
        axes.errorbar(place, value, error, fmt="o", color=TRUE, capsize=5, markersize=7)
        text, offset = f"{value:.3f}", (9, 0)
        axes.annotate(
            text, (place, value), offset, textcoords="offset points", va="center", fontsize=9
        )
    axes.axhline(0.5, color=NEUTRAL, linestyle="--", linewidth=1)
    names = [f"{name}\n({part.rows:,} rows)" for name, part in slices.items()]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_xlim(-0.5, len(names) - 0.3)
    axes.grid(False, axis="x")
    return figure


def metric_by_setting(
    points: Sequence[SettingPoint], settings: Sequence[str], what: str, metrics: Sequence[str]
) -> Figure:
    """Draw metrics against the values of a setting, side by side, with their intervals.

    Args:
        points: The results.
        settings: Values of the setting, in the order of the axis.
        what: Name of the setting.
        metrics: Names of the metrics, in the order of `SettingPoint.intervals`.
    """
    series = list(dict.fromkeys(point.series for point in points))
    colours = {name: SERIES[place % len(SERIES)] for place, name in enumerate(series)}
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.4 * len(metrics), 4.4))
        for place, axes in enumerate(np.atleast_1d(figure.subplots(1, len(metrics)))):
            axes.set_title(metrics[place])
            axes.set_xlabel(what)
            for number, name in enumerate(series):
                shift = 0.24 * (number / max(1, len(series) - 1) - 0.5) * (len(series) > 1)
                own = [point for point in points if point.series == name]
                places = [settings.index(point.setting) + shift for point in own]
                intervals = [point.intervals[place] for point in own]
                _error_bars(axes, places, intervals, colours[name])
            names = [text.replace(", ", "\n") for text in settings]
            axes.set_xticks(range(len(names)), names, fontsize=9)
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.grid(False, axis="x")
        if len(series) > 1:
            figure.legend(
                handles=_patches(colours),
                loc="outside lower center",
                ncols=4,
                fontsize=9,
                edgecolor="none",
            )
    return figure


def learning_curve(
    rows_P: np.ndarray,
    points: Sequence[Interval],
    drawn_P: np.ndarray,
    curve: Sequence[Interval],
    metric: str,
    marks: Sequence[float] = (),
) -> Figure:
    """Draw a metric against training rows, and the curve through it, dashed where extrapolated.

    Args:
        rows_P: Training rows of the points.
        points: The metric at each of them.
        drawn_P: Training rows at which the curve is drawn, ascending.
        curve: The curve at each of them, with its interval.
        metric: Name of the metric.
        marks: Values of the metric to mark, such as goals.
    """
    figure, axes = _figure(f"{metric} by training rows", "distinct training rows", metric)
    values, lows, highs = (
        np.array([getattr(interval, part) for interval in curve])
        for part in ("value", "low", "high")
    )
    measured = drawn_P <= rows_P.max()
    axes.fill_between(drawn_P, lows, highs, color=TRUE, alpha=0.15, linewidth=0)
    axes.plot(drawn_P[measured], values[measured], color=TRUE)
    axes.plot(drawn_P[~measured], values[~measured], color=TRUE, linestyle="--")
    for rows, point in zip(rows_P.tolist(), points, strict=True):
        _error_bars(axes, [rows], [point], FALSE)
    for mark in marks:
        axes.axhline(mark, color=NEUTRAL, linestyle=":", linewidth=1.2)
    axes.set_xscale("log")
    ticks = [*rows_P.tolist(), round(drawn_P[-1])]
    axes.set_xticks(ticks, [f"{rows:,}" for rows in ticks])
    axes.minorticks_off()
    names = {"mean over seeds": FALSE, "power law; dashed: extrapolated": TRUE}
    _legend(axes, names)
    return figure


def log_odds_histogram(
    labels_N: np.ndarray, log_odds_N: np.ndarray, threshold: float = 0.0
) -> Figure:
    """Draw the distributions of the log-odds of True and of False rows.

    Args:
        labels_N: bool [N].
        log_odds_N: float64 [N].
        threshold: Log-odds above it are a verdict of True.
    """
    from matplotlib.ticker import MaxNLocator

    labels_N, log_odds_N = checked(labels_N, log_odds_N)
    figure, axes = _figure(
        "Log-odds by label", "log P(True) - log P(False)", "rows", room_above=True
    )
    edges = np.histogram_bin_edges(log_odds_N, min(40, 5 + len(log_odds_N) // 10))
    for of_label_N, colour in ((~labels_N, FALSE), (labels_N, TRUE)):
        _histogram(axes, log_odds_N[of_label_N], edges, colour)
    _border(axes, threshold)
    _above(axes, threshold, "threshold")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False, axis="x")
    _legend(axes, {"label True": TRUE, "label False": FALSE})
    return figure


def length_histogram(
    lengths: Mapping[str, np.ndarray], unit: str, title: str, marks: Sequence[int] = ()
) -> Figure:
    """Draw the distribution of lengths, on a logarithmic axis: lengths differ by factors.

    Args:
        lengths: Name -> int [N], at most four of them.
        unit: The unit of length, such as "words".
        title: Of the figure.
        marks: Lengths to mark, such as the limits from which rows are truncated.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = _figure(title, unit, "share of rows", room_above=bool(marks))
    shown = {name: np.maximum(1, values_N) for name, values_N in lengths.items()}
    everything = np.concatenate(list(shown.values()))
    low, high = everything.min(initial=1 << 62), everything.max(initial=1) + 1
    edges = np.unique(np.round(np.geomspace(min(low, high - 1), high, 32)))
    colours = dict(zip(shown, (TRUE, FALSE, ACCENT, NEUTRAL), strict=False))
    for name, values_N in shown.items():
        shares_N = np.full(len(values_N), 1 / max(1, len(values_N)))
        _histogram(axes, values_N, edges, colours[name], shares_N)
    for mark in marks:
        _border(axes, mark)
        _above(axes, mark, f"{mark:,}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    _legend(axes, colours)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, completely or not at all.

    Args:
        figure: Any figure of this module.
        path: The file.
    """
    with atomic_file(path) as tmp_path:
        figure.savefig(tmp_path, format="png")


def search_history(losses: Mapping[int, float], stopped: Mapping[int, float]) -> Figure:
    """Draw the log loss of the trials of a search, and the lowest one so far.

    Args:
        losses: Of the finished trials, by number.
        stopped: Log loss when a trial was stopped early, by number.
    """
    figure, axes = _figure("Trials of the search", "trial", "validation log loss")
    numbers = sorted(losses)
    lowest = np.minimum.accumulate([losses[number] for number in numbers])
    axes.step(numbers, lowest, where="post", color=ACCENT)
    axes.scatter(numbers, [losses[number] for number in numbers], color=TRUE, zorder=3)
    axes.scatter(list(stopped), list(stopped.values()), color=NEUTRAL, marker="x", zorder=3)
    _legend(axes, {"finished": TRUE, "stopped early": NEUTRAL, "lowest so far": ACCENT})
    return figure


def search_importances(importances: Mapping[str, float]) -> Figure:
    """Draw how much each option of a search accounts for.

    Args:
        importances: Share of the variance of the log loss, 0 to 1, by option.
    """
    title = "Which options matter"
    figure, axes = _figure(title, "share of the variance of the log loss", "")
    names = sorted(importances, key=lambda name: importances[name])
    axes.barh(names, [importances[name] for name in names], color=TRUE)
    axes.set_xlim(0, 1)
    return figure


def _style() -> AbstractContextManager[None]:
    try:
        import matplotlib
    except ImportError as reason:
        raise ValueError("plots need matplotlib: pip install 'mv-lightning[plots]'") from reason
    # The user's own settings, such as a style sheet, must not have an effect.
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE})


def _figure(
    title: str, x: str, y: str, square: bool = False, room_above: bool = False
) -> tuple[Figure, Axes]:
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.8, 4.8) if square else None)
        axes: Any = figure.subplots()
        axes.set_title(title, pad=20 if room_above else None)
        axes.set(xlabel=x, ylabel=y)
        if square:
            axes.set_aspect("equal")
    return figure, axes


def _error_bars(
    axes: Axes, places: Sequence[float], intervals: Sequence[Interval], colour: str
) -> None:
    """Connected values with their intervals, as far as these are defined."""
    values = [interval.value for interval in intervals]
    axes.plot(places, values, color=colour, marker="o", markersize=6, linewidth=1.2)
    for x, interval in zip(places, intervals, strict=True):
        error = [[interval.value - interval.low], [interval.high - interval.value]]
        axes.errorbar(x, interval.value, error, color=colour, capsize=4, linewidth=1.2)


def _histogram(
    axes: Axes,
    values_N: np.ndarray,
    edges: np.ndarray,
    colour: str,
    weights_N: np.ndarray | None = None,
) -> None:
    """A light area with a clear outline, so that two of them can overlap."""
    bins = edges.tolist()
    axes.hist(values_N, bins, weights=weights_N, color=colour, alpha=0.5)
    axes.hist(values_N, bins, weights=weights_N, color=colour, histtype="step", linewidth=1.5)


def _border(axes: Axes, x: float) -> None:
    axes.axvline(x, color=NEUTRAL, linestyle="--", linewidth=1)


def _above(axes: Axes, x: float, text: str) -> None:
    """Write above the plot; figures with such a text need `room_above`."""
    place = axes.get_xaxis_transform()
    axes.text(x, 1.01, text, transform=place, ha="center", va="bottom", color=NEUTRAL, fontsize=9)


def _diagonal(axes: Axes, text: str) -> None:
    axes.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1)
    axes.text(
        0.82,
        0.8,
        text,
        color=NEUTRAL,
        fontsize=9,
        ha="center",
        va="top",
        rotation=45,
        rotation_mode="anchor",
        transform_rotates_text=True,
    )


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    axes.legend(handles=_patches(colours), fontsize=9, edgecolor="none")


def _patches(colours: Mapping[str, str]) -> list[Patch]:
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=name) for name, colour in colours.items()]
