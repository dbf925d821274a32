"""Seconds of a training step: FLOPs, weights to dequantize, gradients to exchange.

FLOPs are those of `adapters.flops_per_token`, of attention and of recomputed layers. What is not
counted (norms, the optimizer, the host) is a part of the efficiency. Communication does not
overlap with computation here, so that its share is an upper bound.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from mv_lightning.model.activation_checkpointing import stored_layers
from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings
from mv_lightning.model.linear_head import HeadKind
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.memory import ModelDims

GPU_EFFICIENCY = 0.4
"""Share of a GPU's peak that the FLOPs reach: assumed. Full training reached 44 to 52 % of an
A100's (Narayanan et al. 2021, arXiv:2104.04473); the matmuls of adapters are smaller."""
CPU_EFFICIENCY = 0.7
"""Share of a CPU's matmul rate that the FLOPs reach: assumed, rounded from that of
`python -m benchmarks.train --against matmul` on one machine."""
MEMORY_EFFICIENCY = 0.8
"""Share of the memory's bandwidth that dequantization reaches: assumed."""
LINK_EFFICIENCY = 0.8
"""Share of a link's bandwidth that a large all-reduce reaches: assumed."""
_MATRIX, _REPEATS = 1_024, 10


@dataclass(frozen=True)
class Training:
    """What is computed for a token, and how."""

    dims: ModelDims
    base: BaseSettings
    lora: LoraSettings
    optim: OptimSettings
    head: HeadKind = "verdict"
    prompt_loss: bool = False
    """Whether the loss covers the tokens of the prompt."""

    @property
    def trained(self) -> int:
        """Trained parameters."""
        return self.dims.trained(self.lora.r, self.head)

    def forward_flops(self, row_tokens: float) -> float:
        """Return the FLOPs of a packed token in a forward pass, without the head.

        Args:
            row_tokens: Mean tokens of a row; a token attends to half of them, in two matmuls.
        """
        attention = 4 * self.dims.layers * self.dims.queries * row_tokens / 2
        return 2 * (self.dims.projections + self.trained) + attention

    @property
    def needed_flops(self) -> int:
        """Of a packed token in training: `adapters.flops_per_token`."""
        return 4 * self.dims.projections + 6 * self.trained

    def flops(self, stored: int, row_tokens: float) -> float:
        """Return the FLOPs of a packed token in training.

        Args:
            stored: Layers whose activations are stored; the others are computed twice.
            row_tokens: Mean tokens of a row.
        """
        flops = self.needed_flops + 6 * self.dims.layers * self.dims.queries * row_tokens
        if self.prompt_loss:  # forward, recomputed, and the gradient of the input
            flops += 6 * self.dims.hidden * self.dims.vocabulary
        return flops + (1 - stored / self.dims.layers) * self.forward_flops(row_tokens)


@dataclass(frozen=True)
class Device:
    """How fast a GPU or CPU computes, and what it holds."""

    name: str
    flops_per_s: float
    """Matmuls: the peak of a GPU, the measured rate of a CPU."""
    efficiency: float
    """Share of it that training reaches."""
    basis: str
    """Where the efficiency comes from."""
    memory: float
    """Bytes."""
    memory_bytes_per_s: float | None = None
    """Bandwidth of its memory; None where dequantization is a part of the efficiency."""
    link_bytes_per_s: float = float("inf")
    """Bandwidth to another GPU of the node, in one direction."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind, and what connects them."""

    device: Device
    gpus: int = 1
    """GPUs of a node."""
    nodes: int = 1
    network_bytes_per_s: float = float("inf")
    """Bandwidth of a node's network, in one direction."""

    @property
    def size(self) -> int:
        """All GPUs."""
        return self.gpus * self.nodes

    def shards(self, gpus: int) -> list[int]:
        """Return how many GPUs of a node can share a copy of the base: as many on every node.

        Args:
            gpus: Used, of all nodes.
        """
        most_nodes = max(self.nodes, -(-gpus // self.gpus))
        fewest = -(-gpus // most_nodes)
        return [of_node for of_node in range(fewest, self.gpus + 1) if gpus % of_node == 0]

    def bytes_per_s(self, across_nodes: bool) -> float:
        """Return the bandwidth of a ring of GPUs: that of its slowest link.

        Args:
            across_nodes: Whether the GPUs of the ring belong to several nodes.
        """
        link = self.device.link_bytes_per_s
        if across_nodes:
            link = min(link, self.network_bytes_per_s)
        return LINK_EFFICIENCY * link


def micro_batch_seconds(
    training: Training,
    device: Device,
    tokens: float,
    row_tokens: float,
    checkpointing: bool | int,
) -> float:
    """Return the seconds of a micro-batch, forward and backward.

    Args:
        training: What is computed.
        device: What computes it.
        tokens: Packed tokens.
        row_tokens: Mean tokens of a row.
        checkpointing: See `BaseSettings.gradient_checkpointing`.
    """
    layers = training.dims.layers
    stored = stored_layers(checkpointing, int(tokens), layers)
    seconds = tokens * training.flops(stored, row_tokens) / (device.flops_per_s * device.efficiency)
    return seconds + (3 - stored / layers) * dequantization_seconds(training, device)


def evaluation_seconds(
    training: Training, device: Device, tokens: float, row_tokens: float, eval_tokens: int
) -> float:
    """Return the seconds of a pass without gradients.

    Args:
        training: What is computed.
        device: What computes it.
        tokens: Packed tokens of all rows.
        row_tokens: Mean tokens of a row.
        eval_tokens: Packed tokens of a batch.
    """
    flops = tokens * training.forward_flops(row_tokens)
    seconds = flops / (device.flops_per_s * device.efficiency)
    return seconds + tokens / eval_tokens * dequantization_seconds(training, device)


def dequantization_seconds(training: Training, device: Device) -> float:
    """Return the seconds in which all projections are dequantized: once in every pass.

    Four bits of a weight are read, its 16 bits are written, and read again by the matmul.

    Args:
        training: How the base is stored.
        device: Its memory's bandwidth.
    """
    if device.memory_bytes_per_s is None or training.base.quantization == "none":
        return 0.0
    moved = (0.5 + 2 + 2) * training.dims.projections
    return moved / (device.memory_bytes_per_s * MEMORY_EFFICIENCY)


def all_reduce_seconds(size: float, gpus: int, bytes_per_s: float) -> float:
    """Return the seconds of an all-reduce over a ring: 2 (n - 1) / n x size / bandwidth.

    Each GPU sends its share of the sum n - 1 times, and the result as often (Patarasuk and Yuan
    2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").

    Args:
        size: Bytes that each GPU has.
        gpus: n.
        bytes_per_s: Bandwidth of the slowest link, in one direction.
    """
    return 2 * all_gather_seconds(size, gpus, bytes_per_s)


def all_gather_seconds(size: float, gpus: int, bytes_per_s: float) -> float:
    """Return the seconds in which every GPU gets the parts of all: (n - 1) / n x size / bandwidth.

    Args:
        size: Bytes of all parts.
        gpus: n.
        bytes_per_s: Bandwidth of the slowest link, in one direction.
    """
    return (gpus - 1) / gpus * size / bytes_per_s


def cpu_matmul_rate(threads: int) -> float:
    """Measure the fp32 matmuls of this CPU, in operations per second, in about a second.

    CPU time is counted, which other processes on the machine hardly change.

    Args:
        threads: That compute.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(2, _MATRIX, _MATRIX)
        seconds = []
        for _ in range(_REPEATS):
            start = time.process_time()
            torch.mm(a, b)
            seconds.append((time.process_time() - start) / threads)
    finally:
        torch.set_num_threads(before)
    return 2 * _MATRIX**3 / min(seconds)
