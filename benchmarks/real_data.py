"""Three short phases on real labelled solutions with the embedded model, scored on a held-out fifth.

    python -m benchmarks.real_data [--folder ../shared/data]

Questions repeat within the sets, so rows are grouped by question: no test question was trained on. The phases are
balanced, the test fifth keeps the mix of the source. On GSM8K, with four solutions a question, the verifier also picks
among them. Runs the commands that a user would type, goes on where it was interrupted, and writes
`benchmarks/results/real_data.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.splits import machine
from mv_lightning.atomic import atomic_file, write_json
from mv_lightning.data.sources import load_source
from mv_lightning.data.splits import read_manifest
from mv_lightning.schema import LABEL_COLUMN, TEXT_COLUMNS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "real_data.json"
WORK = ROOT / "benchmarks" / "work" / "real_data"


@dataclass(frozen=True)
class Trial:
    """A set, and sizes that two CPU cores manage."""

    file: str
    rows: int
    """Of one phase, a tenth of them for validation."""
    test_rows: int
    """A fifth of the set."""
    max_length: int
    rank: bool
    """Pick among the solutions of a question too."""


TRIALS = {
    "GSM8K": Trial("gsm8k_solutions/labelled.jsonl", rows=400, test_rows=742, max_length=2048, rank=True),
    "MathCoder": Trial("mathcoder_solutions/labelled.parquet", rows=120, test_rows=1254, max_length=512, rank=False),
}


def run(name: str, trial: Trial, folder: Path) -> dict[str, Any]:
    """Train the three phases and score the test fifth.

    Args:
        name: Of the set.
        trial: Its file and sizes.
        folder: Where the sets are.
    """
    run_dir = WORK / name
    options = [
        *("--config", "configs/local.yaml", "--data.source", str(folder / trial.file), "--run.dir", str(run_dir)),
        *("--data.splits.rows", str(trial.rows), "--data.splits.test_rows", str(trial.test_rows)),
        *("--data.splits.group_by_question", "true", "--data.splits.balance_test", "false"),
        *("--data.max_length", str(trial.max_length), "--run.eval_every", "1000"),
    ]
    metrics = run_dir / "phase3" / "metrics.json"
    _command("phases", "--skip-predict", *options)
    if "test" not in json.loads(metrics.read_text(encoding="utf-8")):
        _command("test", "--config", "configs/phase3.yaml", *options)
    ranking = run_dir / "ranking.json"
    if trial.rank and not ranking.is_file():
        held_out = _write_held_out(run_dir, folder / trial.file)
        _command("predict", "--config", "configs/predict.yaml", *options, "--data.predict_source", held_out)
        _command("rank", str(run_dir / "probabilities.csv"), "--source", held_out)
    phases = [json.loads((run_dir / f"phase{n}" / "summary.json").read_text(encoding="utf-8")) for n in (1, 2, 3)]
    test = json.loads(metrics.read_text(encoding="utf-8"))["test"]
    return {
        "settings": vars(trial),
        "train_rows": sum(phase["rows"] for phase in phases),
        "steps": sum(phase["steps"] for phase in phases),
        "minutes": sum(phase["minutes"] for phase in phases),
        "validation": [{name: phase[f"val_{name}"] for name in ("loss", "acc", "auroc")} for phase in phases],
        "test_rows": test["rows"],
        "majority_accuracy": max(test["true_rows"], test["rows"] - test["true_rows"]) / test["rows"],
        "test": {name: test["metrics"][name] for name in ("accuracy", "balanced_accuracy", "auroc", "log_loss")},
        "test_by": test["by"],
        "ranking": json.loads(ranking.read_text(encoding="utf-8")) if trial.rank else None,
    }


def _command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mv_lightning", *words], cwd=ROOT, check=True)


def _write_held_out(run_dir: Path, file: Path) -> str:
    """The test fifth as a file of its own."""
    _, splits = read_manifest(run_dir / "phase3" / "manifest.json")
    held_out = run_dir / "held_out.jsonl"
    source = load_source(str(file))
    assert source.labels_N is not None
    with atomic_file(held_out) as draft, draft.open("w", encoding="utf-8") as lines:
        for row in sorted(splits.test.tolist()):
            values = {name: source.table[row][name] for name in TEXT_COLUMNS}
            lines.write(json.dumps({**values, LABEL_COLUMN: bool(source.labels_N[row])}) + "\n")
    return str(held_out)


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| set | training rows | steps | minutes | test rows | majority | accuracy | balanced accuracy | AUROC |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, r in results.items():
        cells = [
            "{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})".format(**r["test"][metric])
            for metric in ("accuracy", "balanced_accuracy", "auroc")
        ]
        lines.append(
            f"| {name} | {r['train_rows']:,} | {r['steps']} | {r['minutes']:.0f} | {r['test_rows']:,} | "
            f"{r['majority_accuracy']:.3f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every set, print the table and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data", help="where the sets are")
    folder = parser.parse_args().folder
    results = {name: run(name, trial, folder) for name, trial in TRIALS.items()}
    write_json(RESULTS, {"machine": machine(), "sets": results})
    print(table(results))


if __name__ == "__main__":
    main()
