"""Verifiers on real labelled solutions, scored on questions that none of them was trained on.

    python -m benchmarks.real_data --list             # the runs, and which of them are stored
    python -m benchmarks.real_data --run 0.5b-gsm8k   # train a run (or resume it), predict, score
    python -m benchmarks.real_data --baselines        # majority class and bag of words
    python -m benchmarks.real_data --table            # tables and learning curves

Questions repeat within and across the sets. A fixed share of them is held out in all sets, and
every run predicts the same held-out rows, whatever it was trained on. A run is `fit` and `predict`
as a user types them, on one thread, in a folder below `checkpoints/proof`. It resumes with the
same command and skips what is finished. Only metrics are stored, in
`benchmarks/results/proof/NAME.json`, after each set that was scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, exit_on_sigterm, record
from benchmarks.proof.baselines import BASELINES, score_baseline
from benchmarks.proof.definitions import BASELINE_RUN, ROW_SETS, RUNS, TRL_RUNS, Run, chain
from benchmarks.proof.rows import check_held_out, write_scored_rows, write_training_rows
from benchmarks.proof.scoring import Prediction, score_calibrated, score_prediction
from benchmarks.proof.tables import markdown, plot_learning_curves
from benchmarks.proof.training import (
    VALIDATED,
    ProofFolder,
    average,
    cpu_seconds,
    predict,
    predict_validated,
    train,
)
from benchmarks.proof.trl import TrlFolder, score_trl, train_trl
from mv_lightning.artifacts.phase_results import read_summary

ROOT = Path(__file__).parents[1]
PROOF_RESULTS = RESULTS / "proof"


def run_and_store(name: str, set_names: Sequence[str], runs: Path, sets: Path) -> None:
    """Train a run, predict and score the held-out rows, and store the result after each set.

    Args:
        name: A key of `RUNS`.
        set_names: Keys of `ROW_SETS`, in the order of scoring.
        runs: Folder of all runs.
        sets: Folder of the sets.

    Raises:
        ValueError: A command failed, or the sets are not those of the stored results.
    """
    check_held_out(PROOF_RESULTS / "held_out.json", sets)
    run, folder = RUNS[name], ProofFolder(runs, name)
    training = None
    if not run.untrained:
        trained: list[ProofFolder] = []
        for link in chain(name):
            linked = ProofFolder(runs, link)
            if RUNS[link].average:
                average(RUNS[link], linked, trained)
            else:
                train(RUNS[link], linked, sets, trained)
                trained.append(linked)
        training = _training_figures(trained)
    if run.keep_validation:
        predict_validated(run, folder)
    for set_name in set_names:
        predict(run, folder, set_name, sets)
        record(
            f"proof/{name}",
            run=asdict(run),
            training=training,
            cpu_seconds_by_stage=cpu_seconds(folder),
            scores=_all_scores(run, folder),
        )


def _all_scores(run: Run, folder: ProofFolder) -> dict[str, Any]:
    """Return the scores of every set that has been predicted."""
    scores = {}
    for name in ROW_SETS:
        prediction = Prediction(folder.prediction(run, name), folder.scored_rows(name))
        if not prediction.folder.prediction_summary.is_file():
            continue
        if run.keep_validation:
            kept = Prediction(folder.prediction(run, VALIDATED), folder.validated_rows)
            scores[name] = score_calibrated(prediction, kept)
        else:
            scores[name] = score_prediction(prediction, folder.phase, folder.training_rows)
    return scores


def _training_figures(trained: Sequence[ProofFolder]) -> dict[str, Any]:
    """Return the costs of all trainings together, and the validation of the last."""
    summaries = [read_summary(folder.phase) for folder in trained]
    figures: dict[str, Any] = {}
    for name in ("rows", "steps", "tokens", "truncated_rows", "minutes"):
        figures[name] = sum(summary[name] for summary in summaries)
    figures["peak_memory_gb"] = max(summary["peak_memory_gb"] for summary in summaries)
    for name in ("validation_rows", "val_loss", "val_acc", "val_auroc"):
        figures[name] = summaries[-1][name]
    return {**figures, "cpu_seconds": sum(cpu_seconds(folder)["fit"] for folder in trained)}


def store_baselines(set_names: Sequence[str], runs: Path, sets: Path) -> None:
    """Fit the baselines on the training rows of `BASELINE_RUN` and store their scores.

    Args:
        set_names: Keys of `ROW_SETS`.
        runs: Folder of all runs.
        sets: Folder of the sets.
    """
    check_held_out(PROOF_RESULTS / "held_out.json", sets)
    folder = ProofFolder(runs, BASELINE_RUN)
    if not folder.training_rows.is_file():
        write_training_rows(folder.training_rows, RUNS[BASELINE_RUN].rows, sets)
    rows = len(folder.training_rows.read_text(encoding="utf-8").splitlines())
    for name in BASELINES:
        scores = {}
        for set_name in set_names:
            scored_rows = _scored_rows(folder, set_name, sets)
            scores[set_name] = score_baseline(name, folder.training_rows, scored_rows)
        record(f"proof/{name}", training={"rows": rows}, scores=scores)


def train_and_store_trl(name: str, set_names: Sequence[str], runs: Path, sets: Path) -> None:
    """Train with TRL on the rows of a finished run, score the held-out rows, and store the result.

    Args:
        name: A key of `TRL_RUNS`.
        set_names: Keys of `ROW_SETS`.
        runs: Folder of all runs.
        sets: Folder of the sets.

    Raises:
        ValueError: The run that TRL repeats is not finished.
        RuntimeError: TRL cannot be installed, or it stopped.
    """
    check_held_out(PROOF_RESULTS / "held_out.json", sets)
    run, finished = RUNS[TRL_RUNS[name]], ProofFolder(runs, TRL_RUNS[name])
    folder = TrlFolder(runs, name)
    training = train_trl(run, finished, folder)
    scores = {}
    for set_name in set_names:
        scored_rows = _scored_rows(finished, set_name, sets)
        scores[set_name] = score_trl(finished, folder, set_name, scored_rows)
    record(f"proof/{name}", run=asdict(run), training=training, scores=scores)


def _scored_rows(folder: ProofFolder, set_name: str, sets: Path) -> Path:
    path = folder.scored_rows(set_name)
    if not path.is_file():
        write_scored_rows(path, set_name, sets)
    return path


def show_runs() -> None:
    """Print every run, and whether a result of it is stored."""
    for name in (*RUNS, *TRL_RUNS):
        run = RUNS[TRL_RUNS.get(name, name)]
        rows = ", ".join(f"{key} {limit or 'all'}" for key, limit in run.rows.items())
        if run.average:
            rows = f"average of {', '.join(run.average)}"
        elif run.continues:
            rows = f"{run.continues}, then {rows}"
        if name in TRL_RUNS:
            rows = f"{rows}, by TRL"
        stored = "stored" if (PROOF_RESULTS / f"{name}.json").is_file() else ""
        print(f"{name:20} {run.title:30} {rows or 'untrained':30} {stored}".rstrip())


def main() -> None:
    """Do what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--run", choices=[*RUNS, *TRL_RUNS], nargs="+", help="one after the other")
    action.add_argument("--baselines", action="store_true")
    action.add_argument("--table", action="store_true")
    action.add_argument("--list", action="store_true")
    parser.add_argument(
        "--score", choices=ROW_SETS, nargs="+", default=list(ROW_SETS), help="sets to score"
    )
    parser.add_argument(
        "--sets", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the sets"
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "checkpoints" / "proof", help="folder of the runs"
    )
    options = parser.parse_args()
    exit_on_sigterm()
    for name in options.run or ():
        print(f"{name}: in {options.folder / name}", flush=True)
        store = train_and_store_trl if name in TRL_RUNS else run_and_store
        store(name, options.score, options.folder, options.sets)
    if options.baselines:
        store_baselines(options.score, options.folder, options.sets)
    if options.table:
        plot_learning_curves(PROOF_RESULTS, PROOF_RESULTS / "learning_curve.png")
        print(markdown(PROOF_RESULTS))
    if options.list:
        show_runs()


if __name__ == "__main__":
    main()
