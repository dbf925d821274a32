"""Tables and the learning curve, from the stored results of the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bases import BASES
from benchmarks.proof.baselines import BASELINES
from benchmarks.proof.definitions import (
    BASELINE_RUN,
    CURVES,
    ROW_SETS,
    RUNS,
    TRL_RUNS,
    Run,
    chain,
)
from benchmarks.proof.scoring import SOLUTIONS
from mv_lightning.model.bundled import BUNDLED
from mv_lightning.reporting.blocks import Table

MAIN_SET = "gsm8k"
"""The set that the main table and the learning curve show."""
_COSTS = ("trained on", "training rows", "steps", "CPU hours")
_SCORES = {
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "AUROC": "auroc",
    "AUROC within a question": "auroc_within_question",
}
_POLICIES = {
    f"random of {SOLUTIONS}": "random",
    f"best of {SOLUTIONS}": "best",
    f"majority of {SOLUTIONS}": "majority",
    f"weighted vote of {SOLUTIONS}": "weighted",
    f"stack of {SOLUTIONS}": "stack",
    "oracle": "oracle",
}
_GAINS = {"best": "best - majority", "stack": "stack - majority"}


def read_results(folder: Path) -> dict[str, Any]:
    """Return the stored results by name: baselines, then each base's by number of training rows.

    Args:
        folder: Folder of the proof's results.
    """
    results = {}
    for name in (*BASELINES, *RUNS, *TRL_RUNS):
        path = folder / f"{name}.json"
        if path.is_file():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
    bases = (BUNDLED, *BASES)
    names = sorted(
        results.keys() - BASELINES.keys(),
        key=lambda name: (bases.index(_run(name).base), _training_rows(results[name]), name),
    )
    return {name: results[name] for name in (*BASELINES, *names) if name in results}


def markdown(folder: Path) -> str:
    """Return all tables as Markdown.

    Args:
        folder: Folder of the proof's results.
    """
    results = read_results(folder)
    tables = (_verdicts(results), _picks(results), _by_set(results))
    return "\n\n".join(table.markdown().strip() for table in tables) + "\n"


def _verdicts(results: Mapping[str, Any]) -> Table:
    rows = []
    for name, result in results.items():
        if scores := result["scores"].get(MAIN_SET):
            cells = [with_interval(scores[key]) for key in _SCORES.values()]
            rows.append((*_labels(name), *_costs(name, result), *cells))
    return Table(("model", "run", *_COSTS, *_SCORES), rows)


def _picks(results: Mapping[str, Any]) -> Table:
    rows = []
    for name, result in results.items():
        rates = result["scores"].get(MAIN_SET, {}).get("solve_rate")
        if rates is not None:
            cells = [with_interval(rates.get(policy)) for policy in _POLICIES.values()]
            cells += [with_interval(rates["gain_over_majority"].get(policy)) for policy in _GAINS]
            rows.append((*_labels(name), *cells))
    return Table(("model", "run", *_POLICIES, *_GAINS.values()), rows)


def _by_set(results: Mapping[str, Any]) -> Table:
    rows = []
    for set_name, row_set in ROW_SETS.items():
        if set_name == MAIN_SET:
            continue
        for name, result in results.items():
            if scores := result["scores"].get(set_name):
                counts = (f"{scores['rows']:,}", f"{scores['majority']:.3f}")
                cells = [with_interval(scores[key]) for key in _SCORES.values()]
                rows.append((row_set.title, name, *counts, *cells))
    return Table(("scored on", "run", "rows", "majority", *_SCORES), rows)


def best_verifier(folder: Path) -> list[list[str]]:
    """Return the README's rows about the trained run with the highest AUROC on the main set.

    Args:
        folder: Folder of the proof's results.

    Returns:
        What, figure and command of each row; none while no trained run is stored.
    """
    scored = {}
    for name, result in read_results(folder).items():
        if name in RUNS and not RUNS[name].untrained and MAIN_SET in result["scores"]:
            scored[name] = result["scores"][MAIN_SET]
    if not scored:
        return []
    name = max(scored, key=lambda name: scored[name]["auroc"]["value"])
    scores, title = scored[name], ROW_SETS[MAIN_SET].title
    rows, command = f"{scores['rows']:,}", f"`python -m benchmarks.real_data --run {name}`"
    what = (
        f"accuracy on {rows} {title} solutions of new questions (majority {scores['majority']:.3f})"
    )
    within = "AUROC between right and wrong solutions of one of these questions"
    return [
        [f"{what}, {RUNS[name].title}", with_interval(scores["accuracy"]), command],
        [within, with_interval(scores["auroc_within_question"]), command],
    ]


def with_interval(measured: Mapping[str, Any] | None) -> str:
    """Return a value with its interval, or nothing where it was not computed.

    Args:
        measured: `value` and `interval`; None where it was not computed.
    """
    if measured is None or measured["value"] is None:
        return ""
    low, high = measured["interval"]
    return f"{measured['value']:.3f} ({low:.3f} to {high:.3f})"


def _labels(name: str) -> tuple[str, str]:
    if name in BASELINES:
        return BASELINES[name], ""
    return _run(name).title, name


def _run(name: str) -> Run:
    return RUNS[TRL_RUNS.get(name, name)]


def _training_rows(result: Mapping[str, Any]) -> int:
    return result["training"]["rows"] if result["training"] else 0


def _costs(name: str, result: Mapping[str, Any]) -> tuple[str, str, str, str]:
    training = result["training"]
    if training is None:
        return "", "0", "0", "0"
    run = BASELINE_RUN if name in BASELINES else TRL_RUNS.get(name, name)
    keys = dict.fromkeys(key for link in chain(run) for key in RUNS[link].rows)
    sets = ", ".join(ROW_SETS[key].title for key in keys)
    hours = training.get("cpu_seconds", 0) / 3600
    return sets, f"{training['rows']:,}", f"{training.get('steps', 0):,}", f"{hours:.2f}"


def plot_learning_curves(folder: Path, path: Path) -> None:
    """Plot the AUROC and the AUROC within a question over the number of training rows.

    A row that is trained on twice is counted twice.

    Args:
        folder: Folder of the proof's results.
        path: PNG file; not written while no curve has two stored runs.
    """
    from matplotlib.figure import Figure

    from mv_lightning.metrics.plots import save_png

    results = read_results(folder)
    scored = {name for name, result in results.items() if MAIN_SET in result["scores"]}
    curves = {title: [name for name in runs if name in scored] for title, runs in CURVES.items()}
    curves = {title: names for title, names in curves.items() if len(names) > 1}
    if not curves:
        return
    figure = Figure(figsize=(8, 3.9), dpi=150, layout="constrained")
    panels = ("AUROC", "AUROC within a question")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for title, names in curves.items():
            rows = [_training_rows(results[name]) for name in names]
            measured = [results[name]["scores"][MAIN_SET][_SCORES[metric]] for name in names]
            values = [one["value"] for one in measured]
            below = [one["value"] - one["interval"][0] for one in measured]
            above = [one["interval"][1] - one["value"] for one in measured]
            bars = [below, above]
            axes.errorbar(rows, values, yerr=bars, marker="o", capsize=3, label=title)
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("training rows")
        axes.set_title(metric, fontsize=10)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"Qwen2.5-Coder-Instruct, held-out {ROW_SETS[MAIN_SET].title}", fontsize=10)
    save_png(figure, path)
