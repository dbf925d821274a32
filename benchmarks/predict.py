"""Prediction compared with two usual ways, with the same adapter: rows per CPU second.

    python -m benchmarks.predict --against generate   # padded batches, 64 new tokens (the report)
    python -m benchmarks.predict --against padded     # padded batches, sorted by length

The model is SmolLM2-135M in NF4, r 32. The reference is transformers and PEFT without changes, the
adapter in the base's dtype, their fastest setting; the package is measured through
`Verifier.raw_log_odds`. A turn is a number of rows, whole questions where a question has several
answers. Generation stops when every row of a batch has ended; an adapter trained on the verdict
only has not learned to end, so here it generates up to the limit. Also counted: verdicts that
differ between the sides, and between the package's rows predicted one by one and in batches.
Writes
`benchmarks/results/predict_AGAINST.json`; for another source or limit of new tokens,
`predict_AGAINST_SOURCE_TOKENS.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import DTYPE, MODEL, PROMPT, RANK, short_run_adapter
from benchmarks.hf_reference import BATCH_SIZE, MAX_NEW_TOKENS, ReferenceModel, prompts
from benchmarks.measure import PACKAGE, Cost, alternate, one_by_one, ratios, record, spread, timed
from mv_lightning.data.prompts import Prompt
from mv_lightning.data.sources import load_source
from mv_lightning.model.quantization import quantization_config
from mv_lightning.schema import EncodedRows
from mv_lightning.verifier import Verifier

SYNTHETIC = "synthetic"


def reference_model(adapter: Path, tokenizer: Any, prompt: Prompt) -> ReferenceModel:
    """Load the bundled base and an adapter with transformers and PEFT.

    Args:
        adapter: PEFT folder.
        tokenizer: Tokenizer of the base; its `name_or_path` is the base's folder.
        prompt: The prompt of the rows.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        tokenizer.name_or_path,
        dtype=DTYPE,
        device_map={"": "cpu"},
        quantization_config=quantization_config("nf4", DTYPE),
    )
    return ReferenceModel.of(PeftModel.from_pretrained(base, str(adapter)), tokenizer, prompt)


def split_into_turns(
    question_ids_N: np.ndarray, size: int, count: int, lengths_N: np.ndarray | None = None
) -> list[np.ndarray]:
    """Split rows into turns of whole questions, in the order of the questions' first rows.

    Args:
        question_ids_N: int [N], question of each row.
        size: Rows per turn; the last question of a turn is not split.
        count: Number of turns.
        lengths_N: int [N], tokens. If given, the chosen questions are sorted by their mean length,
            so
            that padded batches contain less padding.

    Returns:
        Row numbers of each turn.

    Raises:
        ValueError: There are too few rows.
    """
    _, first_Q, question_N, rows_Q = np.unique(
        question_ids_N, return_index=True, return_inverse=True, return_counts=True
    )
    order_Q = np.argsort(first_Q)
    questions = int(np.searchsorted(np.cumsum(rows_Q[order_Q]), size * count)) + 1
    if questions > len(order_Q):
        raise ValueError(
            f"expected rows for {count} turns of {size}, got {len(question_ids_N)} in all. "
            "Reduce --turns or --rows"
        )
    order_Q = order_Q[:questions]
    if lengths_N is not None:
        mean_Q = np.bincount(question_N, lengths_N) / rows_Q
        order_Q = order_Q[np.argsort(mean_Q[order_Q], kind="stable")]
    turn_Q = np.minimum((np.cumsum(rows_Q[order_Q]) - 1) // size, count - 1)
    turns: list[list[np.ndarray]] = [[] for _ in range(count)]
    for question, turn in zip(order_Q, turn_Q, strict=True):
        turns[turn].append(np.flatnonzero(question_N == question))
    return [np.concatenate(parts) for parts in turns]


def differences(one_N: np.ndarray, other_N: np.ndarray) -> dict[str, float]:
    """Return how many verdicts differ between two log-odds of the same rows, and by how much."""
    absolute_N = np.abs(one_N - other_N)
    return {
        "rows": len(one_N),
        "flips": int(((one_N > 0) != (other_N > 0)).sum()),
        "largest_difference": float(absolute_N.max()),
        "median_difference": float(np.median(absolute_N)),
    }


class Sides:
    """Predicts the rows of each turn with the package and the reference; keeps the answers."""

    def __init__(
        self, verifier: Verifier, reference: ReferenceModel, turns: list[EncodedRows], limit: int
    ) -> None:
        """Create with no answers.

        Args:
            verifier: The package's.
            reference: The same adapter in transformers and PEFT.
            turns: The rows of each turn.
            limit: Maximum number of new tokens.
        """
        self._verifier, self._reference = verifier, reference
        self._turns, self._limit = turns, limit
        self.log_odds: list[np.ndarray] = []
        self.answers: list[Any] = []

    def package(self, turn: int) -> Cost:
        """Predict with the package."""
        cost, log_odds_N = timed(lambda: self._verifier.raw_log_odds(self._turns[turn]))
        self.log_odds.append(log_odds_N)
        return {**cost, "rows": len(log_odds_N)}

    def generate(self, turn: int) -> Cost:
        """Generate text with the reference."""
        rows = prompts(self._turns[turn])
        cost, (verdicts, generated) = timed(lambda: self._reference.generate(rows, self._limit))
        self.answers.extend(verdicts)
        return {**cost, "new_tokens_of_batches": generated}

    def padded(self, turn: int) -> Cost:
        """Run one forward pass per padded batch of the reference."""
        rows = prompts(self._turns[turn])
        cost, log_odds_N = timed(lambda: self._reference.log_odds(rows))
        self.answers.extend(log_odds_N)
        return cost


def agreement_with_text(log_odds_N: np.ndarray, verdicts: list[str | None]) -> dict[str, int]:
    """Return how many generated verdicts differ from those of the log-odds.

    Args:
        log_odds_N: float [N], the package's.
        verdicts: N generated verdicts, None for a text without one.
    """
    answered = [index for index, verdict in enumerate(verdicts) if verdict is not None]
    flips = sum(str(bool(log_odds_N[index] > 0)) != verdicts[index] for index in answered)
    return {
        "rows": len(verdicts),
        "malformed": len(verdicts) - len(answered),
        "flips": flips,
    }


def main() -> None:
    """Alternate, compare verdicts, print the figures and write them."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    count = options.turns + 1
    adapter = short_run_adapter(options.prompt, options.adapter_steps)
    verifier = Verifier.load(adapter, device="cpu")
    source_name = options.source
    if source_name == SYNTHETIC:
        source_name = f"{SYNTHETIC}:{options.rows * count}:4"
    source = load_source(source_name, split="test")
    lengths_N = None
    if options.against == "padded":
        lengths_N = verifier.encode(source.table).lengths_N
    rows = split_into_turns(source.question_ids_N, options.rows, count, lengths_N)
    encoded = [verifier.encode(source.table.select(rows_of_turn)) for rows_of_turn in rows]
    reference = reference_model(adapter, verifier.tokenizer, verifier.prompt)
    sides = Sides(verifier, reference, encoded, options.new_tokens)
    other = {"generate": sides.generate, "padded": sides.padded}[options.against]
    turns = alternate(one_by_one(sides.package), {options.against: other}, options.turns)
    log_odds_N = np.concatenate(sides.log_odds)
    if options.against == "padded":
        agreement: dict[str, Any] = differences(log_odds_N, np.array(sides.answers))
    else:
        agreement = agreement_with_text(log_odds_N, sides.answers)
    single = [
        verifier.raw_log_odds(verifier.encode(source.table.select([row])))
        for row in np.concatenate(rows)
    ]
    record(
        "_".join(_name(options)),
        settings={"model": MODEL, "rank": RANK, "batch": BATCH_SIZE, **vars(options)},
        turns=turns,
        rows_per_cpu_s=_throughput(turns),
        ratio=ratios(turns, options.against),
        ratio_wall=ratios(turns, options.against, "wall_s"),
        predicted_true=float((log_odds_N > 0).mean()),
        agreement=agreement,
        single_against_batched=differences(np.concatenate(single), log_odds_N),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", choices=["generate", "padded"], required=True)
    parser.add_argument(
        "--turns", type=int, default=5, help="turns that are counted; one more warms up"
    )
    parser.add_argument("--rows", type=int, default=64, help="rows per turn")
    parser.add_argument(
        "--new-tokens", type=int, default=MAX_NEW_TOKENS, help="maximum that is generated"
    )
    parser.add_argument("--source", default=SYNTHETIC, help="labelled rows, as data.source")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument(
        "--adapter-steps",
        type=int,
        default=40,
        help="optimizer steps of the adapter; after fewer, every verdict is True",
    )
    return parser


def _throughput(turns: list[dict[str, Cost]]) -> dict[str, float]:
    """Return the median rows per CPU second of each side."""
    medians = {}
    for side in turns[0]:
        rates = [turn[PACKAGE]["rows"] / turn[side]["cpu_s"] for turn in turns]
        medians[side] = spread(rates)["median"]
    return medians


def _name(options: argparse.Namespace) -> Iterator[str]:
    """Yield the parts of the result's file name."""
    yield from ("predict", options.against)
    if options.source != SYNTHETIC:
        path = Path(options.source)
        yield path.parent.name or path.stem
    if options.new_tokens != MAX_NEW_TOKENS:
        yield str(options.new_tokens)


if __name__ == "__main__":
    main()
