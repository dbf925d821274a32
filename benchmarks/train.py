"""Training beside TRL, or beside the matrix products that it cannot avoid: SmolLM2-135M in NF4, r 32, 8 rows a step.

    python -m benchmarks.train --against trl        # TRL as in the report: 2 x 4 padded rows, loss on all tokens
    python -m benchmarks.train --against trl-best   # TRL at its best: 8 rows at once, loss on the completion alone
    python -m benchmarks.train --against matmul     # how much of our step is products that must be

Both sides take the same rows in the same order, a step in turn, with one thread; TRL lives in a process of its own
environment (`benchmarks.baselines`). On our clock is Lightning's whole loop, reading and packing included; on TRL's is the
step alone. TRL rounds its adapters to bf16 by itself, ours stay in fp32. Writes
`benchmarks/results/train_AGAINST.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import REPORT, Peer
from benchmarks.harness import MODEL, PRACTICE, PROMPT, RANK, STEP_ROWS, Training
from benchmarks.measure import WORK, Cost, Side, alternate, ratios, record, timed
from mv_lightning.model.attention import BLOCK
from mv_lightning.schema import Batch

ALONE = {
    "per_device_train_batch_size": STEP_ROWS,
    "gradient_checkpointing": False,
    "completion_only_loss": True,
}
TRL: dict[str, dict[str, dict[str, Any]]] = {
    "trl": {"trl": {"split_text": False, "config": REPORT}},
    "trl-best": {
        "padded": {"split_text": True, "config": ALONE},
        "padding-free": {
            "split_text": True,
            "config": {**ALONE, "padding_free": True, "max_length": None},
        },
    },
}
"""By comparison, then by side: whether prompt and completion stay apart, and what of SFTConfig differs. The figure is
that of the cheapest side."""


@dataclass(frozen=True)
class Product:
    """A matrix product [m, k] x [k, n], `times` of them at once where that is not 0; operands may lie transposed."""

    m: int
    k: int
    n: int
    left_transposed: bool = False
    right_transposed: bool = False
    times: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.m * self.k * self.n * max(self.times, 1)

    def operands(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random operands, laid out as a step lays them out, and room for the result."""
        stack = (self.times,) if self.times else ()
        left = (
            _random(*stack, self.k, self.m).mT
            if self.left_transposed
            else _random(*stack, self.m, self.k)
        )
        right = (
            _random(*stack, self.n, self.k).mT
            if self.right_transposed
            else _random(*stack, self.k, self.n)
        )
        return left, right, torch.empty(*stack, self.m, self.n, dtype=torch.bfloat16)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16)


def products(config: Any, batch: Batch, rank: int, strict: bool) -> Iterator[Product]:
    """Yield the products of one step over a packed batch.

    Forward, and backward for the inputs; an adapter's own gradients too; attention as plain products, a key head's
    queries stacked; the head at the verdicts alone.

    Args:
        config: Of the base model.
        batch: The step's rows.
        rank: Of the adapters.
        strict: Leave out what a step could still save: nothing but the keys and values of the last layer needs more
            than the verdict positions, and the first layer's projections need no gradient for the frozen embeddings.
    """
    hidden, heads, key_heads = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    size, inner, last = config.head_dim, config.intermediate_size, config.num_hidden_layers - 1
    tokens, packing = len(batch.ids_T), batch.packing
    rows, blocks = len(packing.leaves), []
    for length, end in zip(packing.lengths, packing.ends, strict=True):
        blocks += [
            (min(BLOCK, length - done), end - max(0, length - done - BLOCK))
            for done in range(0, length, BLOCK)
        ]
    for layer in range(config.num_hidden_layers):
        few = strict and layer == last
        most = rows if few else tokens
        for inputs, outputs, t, from_embeddings in (
            (hidden, heads * size, most, True),
            (hidden, key_heads * size, tokens, True),
            (hidden, key_heads * size, tokens, True),
            (heads * size, hidden, most, False),
            (hidden, inner, most, False),
            (hidden, inner, most, False),
            (inner, hidden, most, False),
        ):
            yield Product(t, inputs, outputs, right_transposed=True)
            yield Product(t, inputs, rank, right_transposed=True)
            yield Product(t, rank, outputs, right_transposed=True)
            yield Product(t, outputs, rank)
            yield Product(rank, t, inputs, left_transposed=True)
            yield Product(outputs, t, rank, left_transposed=True)
            if not (strict and layer == 0 and from_embeddings):
                yield Product(t, outputs, inputs)
                yield Product(t, rank, inputs)
        for q, k in [(1, packing.ends[leaf]) for leaf in packing.leaves] if few else blocks:
            stacked = heads // key_heads * q
            for _ in range(2):  # scores, and the gradient of the weights
                yield Product(stacked, size, k, right_transposed=True, times=key_heads)
            for _ in range(2):  # values, and the gradient of the queries
                yield Product(stacked, k, size, times=key_heads)
            for _ in range(2):  # the gradients of values and keys
                yield Product(k, stacked, size, left_transposed=True, times=key_heads)
    yield Product(rows, hidden, config.vocab_size, right_transposed=True)
    yield Product(rows, config.vocab_size, hidden)


def products_cost(wanted: list[Product]) -> Cost:
    """Time products one by one, each over operands of its shape that are made before the clock starts."""
    operands = {product: product.operands() for product in set(wanted)}

    def work() -> None:
        for product in wanted:
            left, right, out = operands[product]
            torch.matmul(left, right, out=out)

    for left, right, out in operands.values():
        torch.matmul(left, right, out=out)
    cost, _ = timed(work)
    flops = sum(product.flops for product in wanted)
    return {**cost, "gflop": flops / 1e9, "gflop_per_s": flops / 1e9 / cost["cpu_s"]}


def product_sides(training: Training) -> dict[str, Side]:
    """Return the sides that only multiply: what a step of ours multiplies, and the least that it could.

    Args:
        training: Whose steps are looked at.
    """

    def multiplied(step: int, strict: bool) -> Cost:
        config = training.module.causal_model.config
        return products_cost(list(products(config, training.batch(step), RANK, strict)))

    return {
        "products": lambda step: multiplied(step, False),
        "least": lambda step: multiplied(step, True),
    }


def trl_sides(
    against: str, training: Training, steps: int, peers: dict[str, Peer]
) -> dict[str, Side]:
    """Return the sides of a comparison, each of which starts with its first turn, when the rows are there.

    Args:
        against: A key of `TRL`.
        training: Ours.
        steps: Of each.
        peers: Gets what was started, by side.
    """
    from mv_lightning.model.base import load_tokenizer

    def turn(side: str, _: int) -> Cost:
        if side not in peers:
            texts = WORK / "texts.jsonl"
            training.write_texts(texts)
            peers[side] = Peer(
                side,
                # Where the embedded model was unpacked to: its tokenizer remembers.
                model=load_tokenizer(training.module.base_settings).name_or_path,
                random=False,
                unsloth=False,
                texts=str(texts),
                rank=RANK,
                steps=steps,
                optim={"learning_rate": PRACTICE.lr, "warmup_steps": PRACTICE.warmup_steps},
                **TRL[against][side],
            )
        return peers[side].step()

    return {side: partial(turn, side) for side in TRL[against]}


def main() -> None:
    """Alternate, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", choices=[*TRL, "matmul"], required=True)
    parser.add_argument("--turns", type=int, default=6, help="that count; one more warms up")
    parser.add_argument("--source", default="synthetic:600", help="rows, as data.source")
    parser.add_argument("--prompt", default=PROMPT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(exist_ok=True)
    steps, peers = options.turns + 1, dict[str, Peer]()
    training = Training(options.source, steps, prompt=options.prompt)
    if options.against == "matmul":
        others = product_sides(training)
    else:
        others = trl_sides(options.against, training, steps, peers)
    turns = alternate(training.run, others, options.turns)
    for peer in peers.values():
        peer.stop()
    medians = {side: float(np.median([turn[side]["cpu_s"] for turn in turns])) for side in turns[0]}
    # A step cannot do without the products as it makes them; of TRL's settings the best one counts.
    chosen = "products" if options.against == "matmul" else min(others, key=medians.__getitem__)
    record(
        f"train_{options.against.replace('-', '_')}",
        settings={"model": MODEL, "rank": RANK, "step_rows": STEP_ROWS, **vars(options)},
        peers={side: {**TRL[options.against][side], **peer.about} for side, peer in peers.items()},
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
