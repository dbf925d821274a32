"""All metrics of an evaluation: over all rows, by slices, as text and as figures."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.metrics.adversarial import AdversarialScores, TrueShare, score_adversarial
from mv_lightning.metrics.scores import Scores, score, score_slices, upper_quantile
from mv_lightning.schema import EvalOutputs, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_FIGURE_TITLES = {"kind": "kind of error", "level": "level of difficulty", "source": "source"}
"""Slicings that have a figure."""


@dataclass(frozen=True)
class EvalReport:
    """The metrics of evaluated rows."""

    outputs: EvalOutputs
    split_rows: int
    """Rows of the split. The outputs cover fewer of them if the evaluation was limited."""
    overall: Scores
    slices: Mapping[str, Mapping[str, Scores]]
    """By the name of the slicing, then by slice, see `evaluate`."""
    ids: Sequence[str]
    """The IDs of the rows of the outputs."""
    adversarial: AdversarialScores | None = None
    """The checks whether the verifier can be fooled, where they were made."""

    @property
    def is_complete(self) -> bool:
        """Whether every row of the split was evaluated."""
        return len(self.outputs.rows_N) == self.split_rows

    @property
    def loss(self) -> float:
        """Mean loss of the rows."""
        return float(self.outputs.losses_N.mean())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        slices = {}
        for name, parts in self.slices.items():
            slices[name] = {part: scores.to_json() for part, scores in parts.items()}
        values = {
            "loss": self.loss,
            "split_rows": self.split_rows,
            **self.overall.to_json(),
            "slices": slices,
        }
        if self.adversarial is not None:
            values["adversarial"] = self.adversarial.to_json()
        return values

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Figures by name, drawn once; empty without matplotlib (the extra `plots`)."""
        if importlib.util.find_spec("matplotlib") is None:
            return {}
        from mv_lightning.metrics import plots

        labels_N, log_odds_N = self.outputs.labels_N, self.outputs.log_odds_N
        figures = {
            "reliability": plots.reliability(labels_N, log_odds_N),
            "confusion": plots.confusion_matrix(self.overall),
            "log_odds": plots.log_odds_histogram(labels_N, log_odds_N),
            "length": plots.accuracy_by(self.slices["tokens"], "tokens of the row, at most"),
        }
        for name, title in _FIGURE_TITLES.items():
            if name in self.slices:
                figures[name] = plots.accuracy_by(self.slices[name], title)
        if 0 < self.overall.true_rows < self.overall.rows:
            figures["roc"] = plots.roc_curve(labels_N, log_odds_N)
        return figures

    def table(self) -> str:
        """Return the overall metrics with their 95 % intervals as text."""
        overall = self.overall
        rows = f"{overall.rows:,}"
        if not self.is_complete:
            rows += f" of {self.split_rows:,}"
        lines = [
            f"{rows} rows, {overall.true_rows:,} of them True; loss {self.loss:.4f}; "
            f"intervals over {overall.units:,} {overall.resampled}"
        ]
        for name, value in overall.values.items():
            low, high = overall.intervals[name]
            lines.append(f"  {name.replace('_', ' '):22} {value:7.4f}   {low:.4f} to {high:.4f}")
        cells = [f"{name.replace('_', ' ')} {n:,}" for name, n in overall.confusion.items()]
        lines.append("  " + ", ".join(cells))
        if overall.alarm:
            lines.append(overall.alarm)
        if self.adversarial is not None:
            lines += self.adversarial.lines()
        return "\n".join(lines)


def evaluate(outputs: EvalOutputs, split: Split) -> EvalReport:
    """Compute all metrics of evaluated rows, over all of them and by slices.

    Slices are by `tokens` (upper bounds of fifths), `truncated` (truncated or complete) and, where
    the split states it, `kind` of error, `level` of difficulty, `question` (seen or unseen in
    training) and `source`.

    Args:
        outputs: Of rows of `split`, in any order.
        split: The rows that were evaluated, or more.
    """
    order_N = split.positions(outputs.rows_N)
    labels_N, log_odds_N = outputs.labels_N, outputs.log_odds_N
    questions_N = outputs.question_ids_N
    slices = {
        name: score_slices(values_N, labels_N, log_odds_N, question_ids_N=questions_N)
        for name, values_N in _slice_values(split, order_N).items()
    }
    overall = score(labels_N, log_odds_N, question_ids_N=questions_N)
    ids = [str(row) for row in outputs.rows_N.tolist()]
    if split.ids is not None:
        every_id = split.ids[:]
        ids = [every_id[position] for position in order_N.tolist()]
    return EvalReport(outputs, len(split.encoded), overall, slices, ids)


def evaluate_adversarial(
    outputs: EvalOutputs, split: Split, ordinary: EvalOutputs
) -> AdversarialScores:
    """Compute how often adversarial rows get the verdict True.

    Args:
        outputs: Of adversarial rows, in any order.
        split: These rows; their kinds of error are the names of the checks.
        ordinary: Of rows as they are, whose wrong ones are compared.
    """
    checks_M = split.slices["kind"][split.positions(outputs.rows_N)]
    wrong_N = ~ordinary.labels_N
    share = None
    if wrong_N.any():
        questions_N = ordinary.question_ids_N
        questions_W = None if questions_N is None else questions_N[wrong_N]
        share = TrueShare.of(ordinary.log_odds_N[wrong_N] > 0, questions_W)
    return score_adversarial(checks_M, outputs.log_odds_N > 0, outputs.question_ids_N, share)


def _slice_values(split: Split, order_N: np.ndarray) -> dict[str, np.ndarray]:
    """What to slice by: a value for each row, by the name of the slicing."""
    encoded = split.encoded
    tokens_N = encoded.lengths_N[order_N] + len(encoded.prefix_ids)
    truncated_N = encoded.truncated_N[order_N] > 0
    values = {
        "tokens": upper_quantile(tokens_N),
        "truncated": np.where(truncated_N, "truncated", "complete"),
    }
    values |= {name: values_N[order_N] for name, values_N in split.slices.items()}
    if split.seen_N is not None:
        values["question"] = np.where(split.seen_N[order_N], "seen", "unseen")
    if split.sources_N is not None:
        values["source"] = split.sources_N[order_N]
    return values
