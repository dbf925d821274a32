"""The plan of a phase: micro-batch, recomputation, strategy, time and cost on given GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from mv_lightning.data.batching import packed_tokens
from mv_lightning.planning.estimate import MARGIN
from mv_lightning.planning.memory import MemoryItem, least_checkpointing, training_memory
from mv_lightning.planning.speed import (
    Cluster,
    Training,
    all_gather_seconds,
    all_reduce_seconds,
    evaluation_seconds,
    micro_batch_seconds,
)
from mv_lightning.schema import EncodedRows

Strategy = Literal["one process", "DDP", "sharded base", "does not fit"]
Tokens = Callable[[int], tuple[float, int]]
"""From the rows of a micro-batch to its packed tokens: the mean and the maximum."""


@dataclass(frozen=True)
class PhaseWork:
    """How much a phase computes."""

    phase: int
    rows: int
    """Training rows."""
    batch_size: int
    """Rows of a micro-batch, as configured."""
    accumulate: int
    """Micro-batches of an optimizer step of one GPU."""
    tokens: Tokens
    row_tokens: float
    """Mean tokens of a row, shared ones included."""
    max_epochs: int = 1
    max_steps: int = -1
    validation_rows: int = 0
    eval_every: int = 200
    eval_tokens: int = 8_192

    @property
    def step_rows(self) -> int:
        """Rows of an optimizer step of one GPU."""
        return self.batch_size * self.accumulate

    def steps(self, gpus: int) -> int:
        """Return the optimizer steps.

        Args:
            gpus: Each takes `step_rows` of a step.
        """
        limits = []
        if self.max_steps >= 0:
            limits.append(self.max_steps)
        if self.max_epochs >= 0:
            limits.append(self.max_epochs * -(-self.rows // (self.step_rows * gpus)))
        return min(limits)


@dataclass(frozen=True)
class Choice:
    """A micro-batch and a recomputation, and what follows from them."""

    micro_batch: int
    """Rows."""
    checkpointing: bool | int
    """`model.base.gradient_checkpointing`."""
    strategy: Strategy
    gpus: int
    """GPUs that are used: more than these would not be faster."""
    shards: int
    """GPUs of a node that share a copy of the base; 1 where each has its own."""
    items: list[MemoryItem]
    """The parts of the peak memory of a GPU."""
    tokens: float
    """Mean packed tokens of a step, over all GPUs."""
    steps: int
    computing: float
    """Seconds of a step in which a GPU computes."""
    communicating: float
    """Seconds of a step in which GPUs exchange gradients or weights."""
    validating: float
    """Seconds of all validations."""

    @property
    def peak_bytes(self) -> float:
        """Peak memory of a GPU."""
        return sum(item.bytes for item in self.items)

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self.computing + self.communicating

    @property
    def hours(self) -> float:
        """Hours of the phase, validations included."""
        return (self.steps * self.step_seconds + self.validating) / 3600

    @property
    def tokens_per_s(self) -> float:
        """Packed tokens per second in training, over all GPUs."""
        return self.tokens / self.step_seconds

    def cost(self, price: float) -> float:
        """Return the cost of the phase.

        Args:
            price: Of a GPU for an hour.
        """
        return self.hours * price * self.gpus


@dataclass(frozen=True)
class PhasePlan:
    """The plan of a phase."""

    phase: int
    configured: Choice
    """With the settings as they are."""
    recommended: Choice | None
    """The fastest that fits, with the same rows in a step; None if nothing fits."""
    largest_micro_batch: int
    """Most rows of the longest length that fit on a GPU, every layer recomputed; 0 for none."""


def mean_tokens(mean: float, longest: int) -> Tokens:
    """Return the tokens of micro-batches whose rows share nothing.

    Args:
        mean: Tokens of a row.
        longest: Tokens of the longest row.
    """
    return lambda rows: (rows * mean, rows * longest)


def tokens_of_rows(encoded: EncodedRows, order_N: np.ndarray) -> Tokens:
    """Return the tokens of micro-batches of rows: shared beginnings count once.

    Args:
        encoded: N rows.
        order_N: int [N], their order in an epoch.
    """

    @cache
    def tokens(rows: int) -> tuple[float, int]:
        packed = []
        for start in range(0, len(order_N), rows):
            packed.append(packed_tokens(encoded, order_N[start : start + rows]))
        prefix = len(encoded.prefix_ids)
        return prefix + float(np.mean(packed)), prefix + max(packed)

    return tokens


def plan_phase(work: PhaseWork, training: Training, cluster: Cluster) -> PhasePlan:
    """Plan a phase on some or all of the GPUs.

    Args:
        work: How much it computes.
        training: What is computed for a token.
        cluster: The GPUs.
    """
    counts = range(1, cluster.size + 1)
    checkpointing = training.base.gradient_checkpointing
    return PhasePlan(
        work.phase,
        choose(work, training, cluster, work.batch_size, checkpointing, counts),
        fastest(work, training, cluster, counts),
        largest_micro_batch(training, cluster, work.tokens(1)[1]),
    )


def fastest(
    work: PhaseWork, training: Training, cluster: Cluster, counts: Sequence[int]
) -> Choice | None:
    """Return the fastest choice that fits, with as many rows in a step of a GPU as configured.

    Args:
        work: How much the phase computes.
        training: What is computed for a token.
        cluster: The GPUs.
        counts: Numbers of GPUs to choose from.
    """
    choices = []
    for micro_batch in _divisors(work.step_rows):
        for checkpointing in _recomputations(work, training, cluster, micro_batch):
            choices.append(choose(work, training, cluster, micro_batch, checkpointing, counts))
    fitting = [choice for choice in choices if choice.strategy != "does not fit"]
    return min(fitting, key=lambda choice: choice.hours, default=None)


def choose(
    work: PhaseWork,
    training: Training,
    cluster: Cluster,
    micro_batch: int,
    checkpointing: bool | int,
    counts: Sequence[int],
) -> Choice:
    """Choose strategy and number of GPUs for a micro-batch: the fastest that fit.

    The base is copied to every GPU (DDP) where it fits on several; where it does not, the GPUs of a
    machine share a copy (`configs/fsdp.yaml`).

    Args:
        work: How much the phase computes.
        training: What is computed for a token.
        cluster: The GPUs.
        micro_batch: Rows.
        checkpointing: See `BaseSettings.gradient_checkpointing`.
        counts: Numbers of GPUs to choose from.
    """
    largest, budget = work.tokens(micro_batch)[1], memory_budget(cluster)

    def on(gpus: int, shards: int = 1) -> Choice:
        items = memory_items(training, largest, micro_batch, checkpointing, gpus > 1, shards)
        return _timed(work, training, cluster, items, micro_batch, checkpointing, gpus, shards)

    copied = [on(gpus) for gpus in counts]
    fitting = [choice for choice in copied if choice.peak_bytes <= budget]
    if not any(choice.gpus > 1 for choice in fitting):
        divided = []
        for gpus in counts:
            divided += [on(gpus, shards) for shards in cluster.shards(gpus) if shards > 1]
        fitting += [choice for choice in divided if choice.peak_bytes <= budget]
    if not fitting:
        return replace(copied[0], strategy="does not fit")
    return min(fitting, key=lambda choice: choice.hours)


def largest_micro_batch(training: Training, cluster: Cluster, row_tokens: int) -> int:
    """Return the most rows that fit on a GPU with every layer recomputed; 0 if not even one does.

    Args:
        training: What is computed for a token.
        cluster: The GPUs.
        row_tokens: Tokens of each row.
    """
    budget, distributed = memory_budget(cluster), cluster.size > 1

    def fits(rows: int) -> bool:
        items = memory_items(training, rows * row_tokens, rows, True, distributed)
        return sum(item.bytes for item in items) <= budget

    if not fits(1):
        return 0
    least, most = 1, 2
    while fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def memory_items(
    training: Training,
    tokens: int,
    rows: int,
    checkpointing: bool | int,
    distributed: bool,
    shards: int = 1,
) -> list[MemoryItem]:
    """Return the parts of the peak memory, see `training_memory`."""
    base = replace(training.base, gradient_checkpointing=checkpointing)
    return training_memory(
        training.dims,
        base,
        training.lora,
        training.optim,
        tokens,
        rows,
        distributed,
        training.head,
        shards,
    )


def memory_budget(cluster: Cluster) -> float:
    """Return the bytes of a GPU that may be used."""
    return (1 - MARGIN) * cluster.device.memory


def _recomputations(
    work: PhaseWork, training: Training, cluster: Cluster, micro_batch: int
) -> Iterable[bool | int]:
    """The values to compare: every layer, and as few as fit in one process or in several."""
    values: set[bool | int] = {True}
    for distributed in {False, cluster.size > 1}:
        least = least_checkpointing(
            training.dims,
            training.base,
            training.lora,
            training.optim,
            work.tokens(micro_batch)[1],
            micro_batch,
            memory_budget(cluster),
            distributed,
            training.head,
        )
        if least is not None:
            values.add(least)
    return values


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


def _timed(
    work: PhaseWork,
    training: Training,
    cluster: Cluster,
    items: list[MemoryItem],
    micro_batch: int,
    checkpointing: bool | int,
    gpus: int,
    shards: int,
) -> Choice:
    strategy: Strategy = "DDP" if gpus > 1 else "one process"
    tokens, _ = work.tokens(micro_batch)
    device, parts = cluster.device, work.step_rows / micro_batch
    across_nodes = shards < gpus if shards > 1 else gpus > cluster.gpus
    bandwidth = cluster.bytes_per_s(across_nodes)
    communicating = all_reduce_seconds(4 * training.trained, gpus, bandwidth)
    if shards > 1:
        strategy, passes = "sharded base", 2  # forward, then backward and recomputed
        base = training.dims.layer_weight_bytes(training.base)
        gathering = all_gather_seconds(base, shards, cluster.bytes_per_s(across_nodes=False))
        communicating += parts * passes * gathering
    steps = work.steps(gpus)
    validations = -(-steps // work.eval_every) if work.validation_rows else 0
    pass_seconds = evaluation_seconds(
        training,
        device,
        work.validation_rows * tokens / micro_batch,
        work.row_tokens,
        work.eval_tokens,
    )
    return Choice(
        micro_batch=micro_batch,
        checkpointing=checkpointing,
        strategy=strategy,
        gpus=gpus,
        shards=shards,
        items=items,
        tokens=gpus * parts * tokens,
        steps=steps,
        computing=parts
        * micro_batch_seconds(training, device, tokens, work.row_tokens, checkpointing),
        communicating=communicating,
        validating=validations * pass_seconds / gpus,
    )
