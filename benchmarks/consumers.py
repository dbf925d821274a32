"""Whether the scripts of `docs/consumers` give the log-odds of the verifier.

    python -m benchmarks.consumers checkpoints/local/phase1 --rows 100

The phase is exported as a reward model, and each script that runs on a CPU is run on held-out rows.
TRL trains a tiny policy for two steps; compared are the rewards of its completions by the exported
folder with those by `Verifier.as_reward_func`. Tables state the versions of the libraries.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning import Verifier
from mv_lightning.artifacts.phase_results import read_phase
from mv_lightning.data.rows import text_columns
from mv_lightning.exporting.comparison import held_out_rows
from mv_lightning.exporting.formats import write_reward_model
from mv_lightning.reporting.blocks import Table
from mv_lightning.testing import save_tiny_base

SCRIPTS = Path(__file__).parents[1] / "docs" / "consumers"
CLASSIFIERS = {
    "transformers_pipeline": ("transformers, `pipeline`", "transformers"),
    "sentence_transformers_cross_encoder": (
        "sentence-transformers, `CrossEncoder`",
        "sentence-transformers",
    ),
}
"""Scripts that score rows: name and package."""
METHODS = ("GRPO", "RLOO")
"""Trainers of TRL."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True)
class Agreement:
    """Log-odds of a consumer beside those of the verifier."""

    consumer: str
    version: str
    got_N: np.ndarray
    """float64 [N], calibrated log-odds."""
    expected_N: np.ndarray
    """float64 [N]."""
    threshold: float
    """Of a verdict of True."""

    @property
    def largest_difference(self) -> float:
        """Of the log-odds."""
        return float(np.abs(self.got_N - self.expected_N).max())

    @property
    def flips(self) -> int:
        """Verdicts that differ."""
        verdicts = (self.got_N > self.threshold, self.expected_N > self.threshold)
        return int(np.count_nonzero(np.not_equal(*verdicts)))


def agreements(
    adapter: Path, rows: Sequence[dict[str, str]], work: Path, methods: Sequence[str] = METHODS
) -> Iterator[Agreement]:
    """Run the scripts, and yield how far each agrees with the verifier.

    Args:
        adapter: Folder of the adapter.
        rows: N rows of texts.
        work: An existing folder for what is written.
        methods: Which trainers of TRL to run.
    """
    folder, rows_file = work / "reward_model", work / "rows.jsonl"
    folder.mkdir()
    write_reward_model(adapter, folder)
    rows_file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    verifier = Verifier.load(adapter, precision="32-true")  # the same on every machine
    expected_N, threshold = verifier.log_odds(rows), verifier.calibration.threshold
    del verifier
    for script, (consumer, package) in CLASSIFIERS.items():
        got = run_script(script, folder, rows_file)["log_odds"]
        yield Agreement(consumer, version(package), np.array(got), expected_N, threshold)
    policy = save_policy(work / "policy")
    for method in methods:
        out = work / method
        said = run_script("trl_rewards", folder, adapter, policy, rows_file, out, method)
        # The rewards of every completion are public only as files, and of GRPO's trainer.
        rewards = said["trainer"]._logs["rewards"]
        got_N, less_threshold_N = (
            np.array(rewards[name]) for name in (folder.name, "verifier_reward")
        )
        consumer = f"TRL, `{method}Trainer`, two steps"
        yield Agreement(consumer, version("trl"), got_N, less_threshold_N + threshold, threshold)


def run_script(name: str, *args: Any) -> dict[str, Any]:
    """Run a script of `docs/consumers` in this process, and return its variables.

    Args:
        name: Of the file, without its ending.
        args: Its command line.
    """
    before, sys.argv = sys.argv, [name, *map(str, args)]
    try:
        return runpy.run_path(str(SCRIPTS / f"{name}.py"))
    finally:
        sys.argv = before


def save_policy(folder: Path) -> Path:
    """Save a tiny model with a chat template, which writes random tokens.

    Args:
        folder: A new folder.
    """
    save_tiny_base(folder)
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    return folder


def results_table(results: Sequence[Agreement]) -> Table:
    """Return the agreements as a table.

    Args:
        results: One for each consumer.
    """
    head = ("consumer", "version", "rows", "verdicts that differ", "largest difference of log-odds")
    rows = [
        (
            result.consumer,
            result.version,
            str(len(result.got_N)),
            str(result.flips),
            f"{result.largest_difference:.3f}",
        )
        for result in results
    ]
    return Table(head, rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phase", type=Path, help="folder of a finished phase")
    parser.add_argument("--rows", type=int, default=100, help="held-out rows to score")
    args = parser.parse_args()
    phase = read_phase(args.phase)
    columns = text_columns(held_out_rows(phase, None, args.rows).rows)
    rows = [dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)]
    with tempfile.TemporaryDirectory() as work:
        results = list(agreements(phase.folder.adapter, rows, Path(work)))
    print(results_table(results).markdown())


if __name__ == "__main__":
    main()
