"""Short phases on real labelled solutions with the embedded model, under each prompt, and the prompts as an ensemble.

    python -m benchmarks.real_data [--folder ../shared/data] [--only GSM8K]

Three phases a prompt, scored on a held-out fifth. Questions repeat within the sets, so rows are grouped by question: no
test question was trained on. The phases are balanced, the test fifth keeps the mix of the source. Where several prompts
were trained, their predictions are averaged, plainly and with weights fitted on validation rows, and compared with each
prompt alone, above all with the one that was the most accurate on these. On GSM8K, with four solutions a question, each
verifier also picks among them. Runs the commands that a user would type, goes on where it was interrupted, and writes
the sets that it ran into `benchmarks/results/real_data.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine
from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.artifacts.predictions import load_predicted, read_predictions
from mv_lightning.atomic import atomic_file, write_json
from mv_lightning.commands.best_of_n import RANKING
from mv_lightning.commands.ensemble import SUMMARY
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import read_manifest
from mv_lightning.metrics.best_of_n import POLICIES
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.metrics.scores import score, score_slices
from mv_lightning.reporting.blocks import Table
from mv_lightning.reporting.phase_blocks import with_interval
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "real_data.json"
WORK = ROOT / "benchmarks" / "work" / "real_data"
HELD_OUT = "held_out.jsonl"
SHOWN = ("accuracy", "balanced_accuracy", "auroc")
WITHIN = "AUROC within a question"


@dataclass(frozen=True)
class Trial:
    """A set, and sizes that two CPU cores manage."""

    file: str
    prompts: tuple[str, ...]
    rows: int
    """Of one phase, a tenth of them for validation."""
    test_rows: int
    """A fifth of the set."""
    max_length: int
    rank: bool
    """Pick among the solutions of a question too."""


TRIALS = {
    "GSM8K": Trial(
        "gsm8k_solutions/labelled.jsonl",
        prompts=("answer_only", "explanation", "detailed"),
        rows=400,
        test_rows=742,
        max_length=2048,
        rank=True,
    ),
    "MathCoder": Trial(
        "mathcoder_solutions/labelled.parquet",
        prompts=("explanation",),
        rows=120,
        test_rows=1254,
        max_length=512,
        rank=False,
    ),
}
ENSEMBLES = ("weighted", "plain")


def run(name: str, trial: Trial, folder: Path) -> dict[str, Any]:
    """Train and score every prompt of a set, then their ensembles.

    Args:
        name: Of the set.
        trial: Its file, prompts and sizes.
        folder: Where the sets are.
    """
    runs = {prompt: WORK / name / prompt for prompt in trial.prompts}
    source = str(folder / trial.file)
    prompts = {prompt: _single(trial, prompt, run_dir, source) for prompt, run_dir in runs.items()}
    return {
        "machine": machine(),
        "settings": vars(trial),
        "prompts": prompts,
        "ensembles": _ensembles(list(runs.values()), WORK / name, trial) if len(runs) > 1 else None,
    }


def _single(trial: Trial, prompt: str, run_dir: Path, source: str) -> dict[str, Any]:
    """Three phases, their scores on the test fifth, and the picks among its solutions."""
    options = [
        *("--config", "configs/local.yaml", "--data.source", source, "--run.dir", str(run_dir)),
        *("--data.splits.rows", str(trial.rows), "--data.splits.test_rows", str(trial.test_rows)),
        *("--data.splits.group_by_question", "true", "--data.splits.balance_test", "false"),
        *(
            "--data.max_length",
            str(trial.max_length),
            "--run.eval_every",
            "1000",
            "--data.prompt",
            prompt,
        ),
    ]
    _command("phases", "--skip-predict", *options)
    if not (RunFolder(run_dir).probabilities).is_file():
        held_out = str(_write_held_out(run_dir, source))
        _command(
            "predict",
            "--config",
            "configs/predict.yaml",
            *options,
            "--data.predict_source",
            held_out,
        )
    phases = [_read(run_dir / f"phase{number}" / "summary.json") for number in (1, 2, 3)]
    test = _scores(run_dir, run_dir)
    return {
        "train_rows": sum(phase["rows"] for phase in phases),
        "steps": sum(phase["steps"] for phase in phases),
        "minutes": sum(phase["minutes"] for phase in phases),
        "validation": [
            {name: phase[f"val_{name}"] for name in ("loss", "acc", "auroc")} for phase in phases
        ],
        "majority_accuracy": max(test["true_rows"], test["rows"] - test["true_rows"])
        / test["rows"],
        "test": test,
        "ranking": _ranking(run_dir, run_dir) if trial.rank else None,
    }


def _ensembles(runs: list[Path], folder: Path, trial: Trial) -> dict[str, Any]:
    """The mean of the runs' predictions, its weights fitted or equal, and its gain over each of them."""
    files = [str(RunFolder(run_dir).probabilities) for run_dir in runs]
    fitted = ["--fit-weights", *(str(run_dir / "phase3" / "val.csv") for run_dir in runs)]
    held_out = str(runs[0] / HELD_OUT)
    for kind, options in zip(ENSEMBLES, (fitted, []), strict=True):
        _command("ensemble", *files, "--out", str(folder / kind), "--labels", held_out, *options)
    ids = read_predictions(RunFolder(runs[0]).probabilities).ids
    source, rows_N = load_predicted(held_out, ids)
    assert source.labels_N is not None
    labels_N, question_ids_N = source.labels_N[rows_N], source.question_ids_N[rows_N]
    found = {}
    for kind in ENSEMBLES:
        summary = _read(folder / kind / SUMMARY)
        right_N, *single = (
            (_log_odds(run_dir, ids) > 0) == labels_N for run_dir in (folder / kind, *runs)
        )
        gains_NK = right_N[:, None] - 1.0 * np.column_stack(single)
        intervals = mean_interval(gains_NK, question_ids_N).tolist()
        found[kind] = {
            "weights": {
                run_dir.name: one["weight"]
                for run_dir, one in zip(runs, summary["members"], strict=True)
            },
            "test": _scores(folder / kind, runs[0]),
            "gain_over": {
                run_dir.name: {"value": float(gain), "interval": interval}
                for run_dir, gain, interval in zip(
                    runs, gains_NK.mean(axis=0), intervals, strict=True
                )
            },
            "ranking": _ranking(folder / kind, runs[0]) if trial.rank else None,
        }
    best = _read(folder / "weighted" / SUMMARY)["best"]
    return {"validated_best": runs[best].name, "means": found}


def _scores(folder: Path, run_dir: Path) -> dict[str, Any]:
    """Of the predictions in a folder."""
    labels_N, question_ids_N, log_odds_N = _predicted(folder, str(run_dir / HELD_OUT))
    found = score(labels_N, log_odds_N, question_ids_N=question_ids_N).to_json()
    return {
        **{name: found[name] for name in ("rows", "true_rows", "resampled", "units")},
        **{name: found["metrics"][name] for name in (*SHOWN, "log_loss")},
    }


def _log_odds(folder: Path, ids: Sequence[str]) -> np.ndarray:
    predictions = read_predictions(RunFolder(folder).probabilities)
    return predictions.log_odds_of(ids, "the first run")


def _predicted(folder: Path, held_out: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, questions and log-odds of the predictions in a folder."""
    predictions = read_predictions(RunFolder(folder).probabilities)
    source, rows_N = load_predicted(held_out, predictions.ids)
    assert source.labels_N is not None
    return source.labels_N[rows_N], source.question_ids_N[rows_N], predictions.log_odds_N


def _ranking(folder: Path, run_dir: Path) -> dict[str, Any]:
    """Solve rates with as many solutions as half of the questions have, and the AUROC among solutions of one question.

    The latter tells a verifier of solutions from one that knows hard questions.
    """
    held_out = str(run_dir / HELD_OUT)
    _command("best-of-n", str(RunFolder(folder).probabilities), "--source", held_out)
    ranking = _read(folder / RANKING)
    most, rates = ranking["solve_rate"].popitem()
    labels_N, question_ids_N, log_odds_N = _predicted(folder, held_out)
    found = score_slices(question_ids_N, labels_N, log_odds_N)
    within_Q = np.array(
        [one.values["auroc"] for one in found.values() if 0 < one.true_rows < one.rows]
    )
    within = {
        "questions": len(within_Q),
        "value": float(within_Q.mean()),
        "interval": mean_interval(within_Q[:, None])[0].tolist(),
    }
    return {"questions": ranking["questions"], "solutions": int(most), **rates, WITHIN: within}


def _command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mv_lightning", *words], cwd=ROOT, check=True)


def _read(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def _write_held_out(run_dir: Path, file: str) -> Path:
    """The test fifth as a file of its own."""
    _, splits = read_manifest(run_dir / "phase3" / "manifest.json")
    source = load_source(file)
    assert source.labels_N is not None
    with atomic_file(run_dir / HELD_OUT) as tmp_path, tmp_path.open("w", encoding="utf-8") as lines:
        for row in sorted(splits.test.tolist()):
            values = {name: source.table[row][name] for name in TEXT_COLUMNS}
            lines.write(json.dumps({**values, LABEL_COLUMN: bool(source.labels_N[row])}) + "\n")
    return run_dir / HELD_OUT


def tables(sets: dict[str, Any]) -> str:
    """Return the results as Markdown: scores, gains of the ensembles, and picks.

    Args:
        sets: What `run` found, by set.
    """
    scores, gains, picks = [], [], []
    for name, found in sets.items():
        for prompt, one in found["prompts"].items():
            cost = (f"{one['train_rows']:,}", str(one["steps"]), f"{one['minutes']:.0f}")
            scores.append((f"{name}, {prompt}", *cost, *_cells(one["test"], found)))
        together = found["ensembles"] or {"means": {}}
        for kind, one in together["means"].items():
            scores.append(
                (f"{name}, {kind} mean of the prompts", "", "", "", *_cells(one["test"], found))
            )
            for prompt, gain in one["gain_over"].items():
                mark = ", which validated best" if prompt == together["validated_best"] else ""
                gains.append((f"{name}, {kind}", f"{prompt}{mark}", with_interval(gain)))
        for prompt, one in {**found["prompts"], **together["means"]}.items():
            if one["ranking"] is not None:
                picked = (with_interval(one["ranking"][policy]) for policy in (*POLICIES, WITHIN))
                picks.append((f"{name}, {prompt}", *picked))
    head = ("", "training rows", "steps", "minutes", "test rows", "majority", *SHOWN)
    return "\n\n".join(
        table.markdown()
        for table in (
            Table(head, scores),
            Table(("mean", "gain in accuracy over", ""), gains),
            Table(("picks", *POLICIES, WITHIN), picks),
        )
    )


def _cells(test: dict[str, Any], found: dict[str, Any]) -> tuple[str, ...]:
    majority = next(iter(found["prompts"].values()))["majority_accuracy"]
    return f"{test['rows']:,}", f"{majority:.3f}", *(with_interval(test[name]) for name in SHOWN)


def main() -> None:
    """Run the sets, print the tables of all that have been run, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=ROOT.parent / "shared" / "data", help="where the sets are"
    )
    parser.add_argument("--only", choices=TRIALS, help="one set; the results of the others stay")
    options = parser.parse_args()
    sets = _read(RESULTS)["sets"] if RESULTS.is_file() else {}
    for name in TRIALS if options.only is None else [options.only]:
        sets[name] = run(name, TRIALS[name], options.folder)
        write_json(RESULTS, {"sets": {known: sets[known] for known in TRIALS if known in sets}})
    print(tables(sets))


if __name__ == "__main__":
    main()
