"""Training compared with TRL, or with the matrix products of a step: rows per CPU second.

    python -m benchmarks.train --against trl        # the report: 2 x 4 rows, loss on all tokens
    python -m benchmarks.train --against trl-best   # its fastest: 8 rows, loss on the completion
    python -m benchmarks.train --against matmul     # the share of matrix products in a step

The model is SmolLM2-135M in NF4, r 32, 8 rows a step. Both sides train on the same rows in the
same order, one step at a time, with one thread; TRL runs in a process with its own environment
(`benchmarks.baselines`). The package's cost includes Lightning's whole loop, reading and packing;
TRL's cost is the step only. Beside a base in bf16 TRL rounds its adapters to bf16; the package
keeps them in fp32.
Writes `benchmarks/results/train_AGAINST.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import REPORT, BaselineTrainer
from benchmarks.harness import DTYPE, MODEL, PROMPT, RANK, SHORT_RUN_OPTIM, STEP_ROWS, Training
from benchmarks.measure import WORK, Cost, Side, alternate, ratios, record, timed
from mv_lightning.model.attention import BLOCK
from mv_lightning.schema import Batch

COMPLETION_LOSS = {
    "per_device_train_batch_size": STEP_ROWS,
    "gradient_checkpointing": False,
    "completion_only_loss": True,
}
TRL: dict[str, dict[str, dict[str, Any]]] = {
    "trl": {"trl": {"split_text": False, "config": REPORT}},
    "trl-best": {
        "padded": {"split_text": True, "config": COMPLETION_LOSS},
        "padding-free": {
            "split_text": True,
            "config": {**COMPLETION_LOSS, "padding_free": True, "max_length": None},
        },
    },
}
"""By comparison, then by side: two columns or one text, and arguments of SFTConfig.
The figure of a comparison is that of its fastest side."""


@dataclass(frozen=True)
class MatMul:
    """A product [m, k] x [k, n], batched where `batch` is not 0; operands may be transposed."""

    m: int
    k: int
    n: int
    left_transposed: bool = False
    right_transposed: bool = False
    batch: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.m * self.k * self.n * max(self.batch, 1)

    def operands(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return random operands with the strides of a training step, and an empty result."""
        batch = (self.batch,) if self.batch else ()
        left = (
            _random(*batch, self.k, self.m).mT
            if self.left_transposed
            else _random(*batch, self.m, self.k)
        )
        right = (
            _random(*batch, self.n, self.k).mT
            if self.right_transposed
            else _random(*batch, self.k, self.n)
        )
        return left, right, torch.empty(*batch, self.m, self.n, dtype=DTYPE)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=DTYPE)


def step_matmuls(config: Any, batch: Batch, rank: int, strict: bool) -> Iterator[MatMul]:
    """Yield the matrix products of one step on a packed batch.

    Forward, and backward for the inputs and for the adapters' own gradients; attention as plain
    products, the queries of a key head stacked; the head at the verdict positions only.

    Args:
        config: Config of the base model.
        batch: The step's rows.
        rank: LoRA rank.
        strict: Leave out what a step could still save: in the last layer only keys and values are
            needed
            at more than the verdict positions, and the first layer's projections need no gradient
            for the frozen embeddings.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    key_heads = config.num_key_value_heads
    size, inner, last = config.head_dim, config.intermediate_size, config.num_hidden_layers - 1
    tokens, packing = len(batch.ids_T), batch.packing
    rows, blocks = len(packing.leaves), []
    last_queries = [(1, packing.ends[leaf]) for leaf in packing.leaves]
    for length, end in zip(packing.lengths, packing.ends, strict=True):
        blocks += [
            (min(BLOCK, length - done), end - max(0, length - done - BLOCK))
            for done in range(0, length, BLOCK)
        ]
    for layer in range(config.num_hidden_layers):
        verdicts_only = strict and layer == last
        queries = rows if verdicts_only else tokens
        for inputs, outputs, t, from_embeddings in (
            (hidden, heads * size, queries, True),
            (hidden, key_heads * size, tokens, True),
            (hidden, key_heads * size, tokens, True),
            (heads * size, hidden, queries, False),
            (hidden, inner, queries, False),
            (hidden, inner, queries, False),
            (inner, hidden, queries, False),
        ):
            yield MatMul(t, inputs, outputs, right_transposed=True)
            yield MatMul(t, inputs, rank, right_transposed=True)
            yield MatMul(t, rank, outputs, right_transposed=True)
            yield MatMul(t, outputs, rank)
            yield MatMul(rank, t, inputs, left_transposed=True)
            yield MatMul(outputs, t, rank, left_transposed=True)
            if not (strict and layer == 0 and from_embeddings):
                yield MatMul(t, outputs, inputs)
                yield MatMul(t, rank, inputs)
        for q, k in last_queries if verdicts_only else blocks:
            stacked = heads // key_heads * q
            for _ in range(2):  # scores, and the gradient of the weights
                yield MatMul(stacked, size, k, right_transposed=True, batch=key_heads)
            for _ in range(2):  # values, and the gradient of the queries
                yield MatMul(stacked, k, size, batch=key_heads)
            for _ in range(2):  # the gradients of values and keys
                yield MatMul(k, stacked, size, left_transposed=True, batch=key_heads)
    yield MatMul(rows, hidden, config.vocab_size, right_transposed=True)
    yield MatMul(rows, config.vocab_size, hidden)


def matmuls_cost(matmuls: list[MatMul]) -> Cost:
    """Time matrix products one by one; their operands are created before the clock starts."""
    operands = {matmul: matmul.operands() for matmul in set(matmuls)}

    def work() -> None:
        for matmul in matmuls:
            left, right, out = operands[matmul]
            torch.matmul(left, right, out=out)

    for left, right, out in operands.values():
        torch.matmul(left, right, out=out)
    cost, _ = timed(work)
    flops = sum(matmul.flops for matmul in matmuls)
    return {**cost, "gflop": flops / 1e9, "gflop_per_s": flops / 1e9 / cost["cpu_s"]}


def matmul_sides(training: Training) -> dict[str, Side]:
    """Return the sides that only multiply: the matrix products of a step, and the minimum of them.

    Args:
        training: Provides the batches.
    """

    def cost(step: int, strict: bool) -> Cost:
        config = training.module.causal_model.config
        return matmuls_cost(list(step_matmuls(config, training.batch(step), RANK, strict)))

    return {
        "matmuls": lambda step: cost(step, False),
        "minimum": lambda step: cost(step, True),
    }


def trl_sides(
    against: str, training: Training, steps: int, trainers: dict[str, BaselineTrainer]
) -> dict[str, Side]:
    """Return the sides of a comparison; each starts at its first turn, once the rows are known.

    Args:
        against: A key of `TRL`.
        training: The package's.
        steps: Optimizer steps of each side.
        trainers: Receives the started processes, by side.
    """
    from mv_lightning.model.base import load_tokenizer

    def turn(side: str, _: int) -> Cost:
        if side not in trainers:
            texts = WORK / "texts.jsonl"
            training.write_texts(texts)
            trainers[side] = BaselineTrainer(
                side,
                # The folder that the bundled model was unpacked to.
                model=load_tokenizer(training.module.base_settings).name_or_path,
                random=False,
                unsloth=False,
                texts=str(texts),
                rank=RANK,
                steps=steps,
                optim={
                    "learning_rate": SHORT_RUN_OPTIM.lr,
                    "warmup_steps": SHORT_RUN_OPTIM.warmup_steps,
                },
                **TRL[against][side],
            )
        return trainers[side].step()

    return {side: partial(turn, side) for side in TRL[against]}


def main() -> None:
    """Alternate, print the figures and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", choices=[*TRL, "matmul"], required=True)
    parser.add_argument(
        "--turns", type=int, default=6, help="turns that are counted; one more warms up"
    )
    parser.add_argument("--source", default="synthetic:600:4", help="rows, as data.source")
    parser.add_argument("--prompt", default=PROMPT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(exist_ok=True)
    steps, trainers = options.turns + 1, dict[str, BaselineTrainer]()
    training = Training(options.source, steps, prompt=options.prompt)
    if options.against == "matmul":
        others = matmul_sides(training)
    else:
        others = trl_sides(options.against, training, steps, trainers)
    turns = alternate(training.run, others, options.turns)
    for trainer in trainers.values():
        trainer.stop()
    medians = {side: float(np.median([turn[side]["cpu_s"] for turn in turns])) for side in turns[0]}
    # Of TRL's settings, the fastest is compared.
    chosen = "matmuls" if options.against == "matmul" else min(others, key=medians.__getitem__)
    versions = {}
    for side, trainer in trainers.items():
        versions[side] = {**TRL[options.against][side], **trainer.versions}
    record(
        f"train_{options.against.replace('-', '_')}",
        settings={"model": MODEL, "rank": RANK, "step_rows": STEP_ROWS, **vars(options)},
        baselines=versions,
        real_tokens_a_step=[training.batch(step).tokens for step in range(1, steps)],
        turns=turns,
        cpu_s_a_step=medians,
        rows_per_cpu_s={side: STEP_ROWS / seconds for side, seconds in medians.items()},
        ratios={side: ratios(turns, side) for side in others},
        chosen=chosen,
        ratio=ratios(turns, chosen),
        ratio_wall=ratios(turns, chosen, "wall_s"),
    )


if __name__ == "__main__":
    main()
