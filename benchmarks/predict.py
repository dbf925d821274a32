"""Prediction beside the two usual ways, with one adapter: SmolLM2-135M in NF4, r 32, rows per CPU second.

    python -m benchmarks.predict --against generate   # the report's loop: padded batches of 16, up to 64 new tokens
    python -m benchmarks.predict --against padded     # one forward pass of padded batches of 16, sorted by length

Theirs is transformers and PEFT as they come, the adapter in bf16, which is their fastest here; ours is
`Verifier.raw_log_odds`. A turn is a share of the rows, whole questions where they have several answers. Generation stops as
`generate` does, when every row of a batch has ended; an adapter that is trained on the verdict alone has not learnt to
end, so here it writes all that it may. Also counted: verdicts that differ between the sides, and between our rows
judged one by one and together. Writes `benchmarks/results/predict_AGAINST.json`, for another source or number of new
tokens `predict_AGAINST_SOURCE_TOKENS.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import MODEL, PROMPT, RANK, practised_adapter
from benchmarks.hf_reference import BATCH, NEW_TOKENS, Plain, prompts
from benchmarks.measure import Cost, alternate, one_by_one, ratios, record, spread, timed
from mv_lightning.data.sources import load_source
from mv_lightning.model.quantization import quantization_config
from mv_lightning.verifier import Verifier

SAMPLE = "sample"


def plain_model(adapter: Path, tokenizer: Any) -> Plain:
    """Return the embedded base and an adapter through transformers and PEFT as they come.

    Args:
        adapter: PEFT folder.
        tokenizer: Of the base; remembers where it lies.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        tokenizer.name_or_path,
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        quantization_config=quantization_config("nf4", torch.bfloat16),
    )
    return Plain.of(PeftModel.from_pretrained(base, str(adapter)), tokenizer)


def shares(
    question_ids_N: np.ndarray, size: int, count: int, lengths_N: np.ndarray | None = None
) -> list[np.ndarray]:
    """Deal rows to shares of whole questions, in the order of the questions' first rows.

    Args:
        question_ids_N: int [N], question of each row.
        size: Rows of a share; a question too many is not split.
        count: How many shares.
        lengths_N: int [N], tokens: the chosen questions are dealt by their mean instead, which padding likes.

    Returns:
        Row numbers of each share.

    Raises:
        ValueError: There are too few rows.
    """
    _, first_Q, question_N, rows_Q = np.unique(
        question_ids_N, return_index=True, return_inverse=True, return_counts=True
    )
    order_Q = np.argsort(first_Q)
    wanted = int(np.searchsorted(np.cumsum(rows_Q[order_Q]), size * count)) + 1
    if wanted > len(order_Q):
        raise ValueError(
            f"{count} shares of {size} rows need more than the {len(question_ids_N)} that there are; take fewer"
        )
    order_Q = order_Q[:wanted]
    if lengths_N is not None:
        mean_Q = np.bincount(question_N, lengths_N) / rows_Q
        order_Q = order_Q[np.argsort(mean_Q[order_Q], kind="stable")]
    share_Q = np.minimum((np.cumsum(rows_Q[order_Q]) - 1) // size, count - 1)
    return [
        np.concatenate(
            [np.flatnonzero(question_N == question) for question in order_Q[share_Q == share]]
        )
        for share in range(count)
    ]


def differences(one_N: np.ndarray, other_N: np.ndarray) -> dict[str, float]:
    """Return how many verdicts differ between two log-odds of the same rows, and by how much these do."""
    away_N = np.abs(one_N - other_N)
    return {
        "rows": len(one_N),
        "flips": int(((one_N > 0) != (other_N > 0)).sum()),
        "largest_difference": float(away_N.max()),
        "median_difference": float(np.median(away_N)),
    }


def main() -> None:
    """Alternate, compare verdicts, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", choices=["generate", "padded"], required=True)
    parser.add_argument("--turns", type=int, default=5, help="that count; one more warms up")
    parser.add_argument("--rows", type=int, default=64, help="of a turn")
    parser.add_argument(
        "--new-tokens", type=int, default=NEW_TOKENS, help="most that generate writes"
    )
    parser.add_argument("--source", default=SAMPLE, help="labelled rows, as data.source")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument(
        "--practice",
        type=int,
        default=40,
        help="steps that the adapter is trained for: fewer say True of everything",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.turns + 1
    adapter = practised_adapter(options.prompt, options.practice)
    ours = Verifier.load(adapter, device="cpu")
    plain = plain_model(adapter, ours.tokenizer)

    sampled = options.source == SAMPLE
    source = load_source(
        f"{SAMPLE}:{options.rows * count}" if sampled else options.source, split="test"
    )
    lengths_N = ours.encode(source.table).lengths_N if options.against == "padded" else None
    rows = shares(source.question_ids_N, options.rows, count, lengths_N)
    dealt = [ours.encode(source.table.select(share)) for share in rows]
    odds: list[np.ndarray] = []
    answers: list[Any] = []

    def our_turn(turn: int) -> Cost:
        cost, odds_N = timed(lambda: ours.raw_log_odds(dealt[turn]))
        odds.append(odds_N)
        return {**cost, "rows": len(odds_N)}

    def generated(turn: int) -> Cost:
        cost, (words, written) = timed(
            lambda: plain.generate(prompts(dealt[turn]), options.new_tokens)
        )
        answers.extend(words)
        return {**cost, "new_tokens_of_batches": written}

    def padded(turn: int) -> Cost:
        cost, odds_N = timed(lambda: plain.log_odds(prompts(dealt[turn])))
        answers.extend(odds_N)
        return cost

    theirs = {"generate": generated, "padded": padded}[options.against]
    turns = alternate(one_by_one(our_turn), {options.against: theirs}, options.turns)
    odds_N = np.concatenate(odds)
    if options.against == "padded":
        agreement = differences(odds_N, np.array(answers))
    else:
        said_N = np.array([str(odds > 0) for odds in odds_N])
        words_N = np.array([word or "" for word in answers])
        malformed_N = words_N == ""
        agreement = {
            "rows": len(answers),
            "malformed": int(malformed_N.sum()),
            "flips": int(((said_N != words_N) & ~malformed_N).sum()),
        }
    alone_N = np.concatenate(
        [ours.raw_log_odds(ours.encode(source.table.select([row]))) for row in np.concatenate(rows)]
    )
    record(
        "_".join(_name(options)),
        settings={"model": MODEL, "rank": RANK, "batch": BATCH, **vars(options)},
        turns=turns,
        rows_per_cpu_s={
            side: spread([turn["ours"]["rows"] / turn[side]["cpu_s"] for turn in turns])["median"]
            for side in turns[0]
        },
        ratio=ratios(turns, options.against),
        ratio_wall=ratios(turns, options.against, "wall_s"),
        said_true=float((odds_N > 0).mean()),
        agreement=agreement,
        alone_against_together=differences(alone_N, odds_N),
    )


def _name(options: argparse.Namespace) -> Iterator[str]:
    """What tells one result from another."""
    yield from ("predict", options.against)
    if options.source != SAMPLE:
        path = Path(options.source)
        yield path.parent.name or path.stem
    if options.new_tokens != NEW_TOKENS:
        yield str(options.new_tokens)


if __name__ == "__main__":
    main()
