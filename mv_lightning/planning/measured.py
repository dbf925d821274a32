"""What was measured: the efficiency of a plan, and runs beside what is predicted for them."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.curves import logged_curve
from mv_lightning.artifacts.phase_results import PhaseResults, read_run
from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings, load_config
from mv_lightning.model.bundled import BUNDLED
from mv_lightning.model.gpus import GPU, GPUS, find_gpu, gpu_named
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.memory import ModelDims
from mv_lightning.planning.plan import memory_items
from mv_lightning.planning.speed import (
    CPU_EFFICIENCY,
    GPU_EFFICIENCY,
    Device,
    Training,
    cpu_matmul_rate,
    dequantization_seconds,
    micro_batch_seconds,
)

CPU = "cpu"
COMPARISONS = "plan.json"
"""The comparisons that `plan --compare` stored last, in the folder of the results."""
_ASSUMED = "assumed"
_SCALING_PREFIX, _SCALING_MAX_TOKENS = 32, 2_048
"""Of `benchmarks.scaling`: tokens that all rows share, and those of a micro-batch."""


@dataclass(frozen=True)
class Comparison:
    """A prediction beside what was measured."""

    what: str
    """The phase, and its machine."""
    quantity: str
    """With its unit."""
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative to what was measured; above 0 where the prediction is too high."""
        return self.predicted / self.measured - 1


def find_device(name: str, results: Path) -> Device:
    """Return a device by the name that a user gives it.

    Args:
        name: `cpu` for this machine, or that of a GPU in `GPUS`.
        results: Folder of the benchmarks' results.

    Raises:
        ValueError: The name is unknown.
    """
    if name == CPU:
        import torch

        return cpu_device(torch.get_num_threads(), results)
    gpu = gpu_named(name)
    if gpu is not None:
        return gpu_device(gpu, results)
    names = ", ".join(gpu.name for gpu in GPUS)
    raise ValueError(f"expected --machine to be {CPU} or one of {names}, got {name!r}")


def cpu_device(threads: int, results: Path) -> Device:
    """Return this CPU, with the matmul rate that it has now.

    Args:
        threads: That compute.
        results: Folder of the benchmarks' results.
    """
    stored = _read(results / "train_matmul.json")
    efficiency, basis = CPU_EFFICIENCY, _ASSUMED
    if stored is not None:
        efficiency = stored["ratio"]["median"]
        basis = "measured by python -m benchmarks.train --against matmul"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    name = f"CPU, {threads} threads"
    return Device(name, cpu_matmul_rate(threads), efficiency, basis, memory)


def gpu_device(gpu: GPU, results: Path) -> Device:
    """Return a GPU; its efficiency is measured where the GPU benchmark ran on one of its kind.

    Args:
        gpu: Its data sheet.
        results: Folder of the benchmarks' results.
    """
    device = Device(
        name=gpu.name,
        flops_per_s=gpu.peak_tflops * 1e12,
        efficiency=GPU_EFFICIENCY,
        basis=_ASSUMED,
        memory=gpu.gb * 1e9,
        memory_bytes_per_s=gpu.memory_gb_s * 1e9,
        link_bytes_per_s=gpu.link_gb_s * 1e9,
    )
    package = _read(results / "gpu" / "package.json")
    if package is None or find_gpu(package["machine"]["device"]) != gpu:
        return device
    training = _benchmark_training(package["settings"], gpu)
    seconds, tokens, row_tokens = _step(package)
    passes = 2  # nothing is recomputed there
    rest = seconds - passes * dequantization_seconds(training, device)
    reached = tokens * training.flops(training.dims.layers, row_tokens) / rest
    return replace(
        device,
        efficiency=reached / device.flops_per_s,
        basis="measured by python -m benchmarks.gpu",
    )


def training_of(model: Mapping[str, Any], gpu: GPU | None, precision: str) -> Training:
    """Return what a configuration computes for a token.

    Args:
        model: The settings of the group `model`.
        gpu: Where; None for a CPU.
        precision: Lightning's name of it; only a CPU is planned in fp32.

    Raises:
        ValueError: The config of the base model cannot be read.
    """
    base = BaseSettings(**model["base"])
    in_fp32 = gpu is None and precision == "32-true"
    dims = replace(
        ModelDims.of(load_config(base)),
        repeats_keys=gpu is not None and not gpu.has_varlen,
        matmul_bytes=4 if in_fp32 else 2,
    )
    return Training(
        dims,
        base,
        LoraSettings(**model["lora"]),
        OptimSettings(**model["optim"]),
        model.get("head", "verdict"),  # runs before the option have none
        bool(model["prompt_loss_weight"]),
    )


def compare_run(run: Path, results: Path) -> list[Comparison]:
    """Return the comparisons of the finished phases of a run.

    Steps and tokens are those that the phase logged; memory is that of training.

    Args:
        run: Its folder, `run.dir`.
        results: Folder of the benchmarks' results.

    Raises:
        ValueError: No phase is finished, or its machine or curves are unknown.
    """
    comparisons = []
    for phase in read_run(run):
        comparisons += _compare_phase(phase, results)
    return comparisons


def compare_gpu_results(results: Path) -> list[Comparison]:
    """Return the comparisons of the GPU benchmark; none where it was not run on a known GPU.

    Its training without recomputation gave the efficiency, and is not compared.

    Args:
        results: Folder of the benchmarks' results.
    """
    package, phase1 = (_read(results / "gpu" / f"{name}.json") for name in ("package", "phase1"))
    comparisons = []
    for stored in (package, phase1):
        if stored is None or (gpu := find_gpu(stored["machine"]["device"])) is None:
            continue
        device, training = gpu_device(gpu, results), _benchmark_training(stored["settings"], gpu)
        if stored is package:
            measured, tokens, row_tokens = _step(stored["recomputed"])
            what, parts = f"8 rows, every layer recomputed, {gpu.name}", 1
        else:
            row_tokens = 2_048  # the benchmark fills the rows
            measured, tokens = 8 / stored["rows_per_s"], 2 * row_tokens
            what, parts = f"phase 1, {gpu.name}", 4
            peak = _peak_gb(training, tokens, 2, True)
            comparisons.append(Comparison(what, "peak GB", peak, stored["peak_gb"]))
        predicted = parts * micro_batch_seconds(training, device, tokens, row_tokens, True)
        comparisons.append(Comparison(what, "seconds a step", predicted, measured))
    return comparisons


def compare_cpu_results(results: Path) -> list[Comparison]:
    """Return the comparisons of `benchmarks.scaling`; none where it is not stored.

    Its rows have other lengths and its batches other sizes than those of `benchmarks.train`, which
    gives the matmul rate and the efficiency. Seconds are of CPU time.

    Args:
        results: Folder of the benchmarks' results.

    Raises:
        ValueError: The config of the bundled model, which was measured, cannot be read.
    """
    matmul, scaling = (_read(results / f"{name}.json") for name in ("train_matmul", "scaling"))
    if matmul is None or scaling is None:
        return []
    rate = statistics.median(turn["matmuls"]["gflop_per_s"] for turn in matmul["turns"])
    device = Device("CPU", rate * 1e9, matmul["ratio"]["median"], "measured", memory=0)
    settings = scaling["settings"]
    base = BaseSettings(name=BUNDLED, gradient_checkpointing=False)
    config = load_config(base)
    config.num_hidden_layers = settings["layers"]
    lora = LoraSettings(r=settings["rank"], alpha=settings["rank"])
    training = Training(ModelDims.of(config), base, lora, OptimSettings())
    comparisons = []
    for measurement in scaling["measurements"]:
        rows, mean = measurement["batch"], measurement["mean_length"]
        unshared = rows * (mean - _SCALING_PREFIX)
        micro_batches = ceil(unshared / (_SCALING_MAX_TOKENS - _SCALING_PREFIX))
        tokens = unshared + micro_batches * _SCALING_PREFIX
        comparisons.append(
            Comparison(
                f"benchmarks.scaling, {rows} rows of {mean} tokens",
                "seconds a step",
                micro_batch_seconds(training, device, tokens, mean, False),
                rows / measurement["rows_per_cpu_s"],
            )
        )
    return comparisons


def stored_comparisons(results: Path) -> list[Comparison]:
    """Return the comparisons that were stored last; none if there are none.

    Args:
        results: Folder of the benchmarks' results.
    """
    stored = _read(results / COMPARISONS) or {"comparisons": []}
    return [Comparison(**values) for values in stored["comparisons"]]


def _compare_phase(phase: PhaseResults, results: Path) -> list[Comparison]:
    where = phase.summary["environment"]["device"]
    threads, gpu = re.fullmatch(r"CPU, (\d+) threads", where), find_gpu(where)
    if threads:
        device = cpu_device(int(threads[1]), results)
    elif gpu is not None:
        device = gpu_device(gpu, results)
    else:
        raise ValueError(f"{phase.folder.path}: expected a CPU or a known GPU, got {where!r}")
    settings = phase.settings
    accumulate = settings["trainer"]["accumulate_grad_batches"]
    rows = settings["data"]["batch_size"]
    training = training_of(settings["model"], gpu, settings["trainer"]["precision"])
    checkpointing = training.base.gradient_checkpointing
    rates, row_rates, tflops, peaks = _logged(phase)
    measured, predicted, most = [], [], 0.0
    for rate, row_rate, speed in zip(rates, row_rates, tflops, strict=True):
        seconds = accumulate * rows / row_rate
        tokens = speed * 1e12 * seconds / training.needed_flops / accumulate
        measured.append(seconds)
        one = micro_batch_seconds(training, device, tokens, rate / row_rate, checkpointing)
        predicted.append(accumulate * one)
        most = max(most, tokens)
    what = f"{phase.folder.run.name}, {phase.name}, {device.name}"
    medians = statistics.median(predicted), statistics.median(measured)
    peak = _peak_gb(training, int(most), rows, checkpointing)
    return [
        Comparison(what, "seconds a step", *medians),
        Comparison(what, "peak GB", peak, max(peaks)),
    ]


def _logged(phase: PhaseResults) -> list[list[float]]:
    """Tokens, rows and TFLOP per second, and peak memory, of every step.

    Raises:
        ValueError: The phase has not logged them.
    """
    names = ("speed/tokens_per_s", "speed/rows_per_s", "speed/tflops", "memory/peak_gb")
    curves = []
    for name in names:
        curves.append(list(logged_curve(phase.folder, phase.settings, name).values()))
    if not curves[0]:
        raise ValueError(
            f"{phase.folder.path}: expected the logged curves {', '.join(names)}, got none. Copy "
            "the run's folder together with its curves"
        )
    return curves


def _peak_gb(training: Training, tokens: int, rows: int, checkpointing: bool | int) -> float:
    items = memory_items(training, tokens, rows, checkpointing, distributed=False)
    return sum(item.bytes for item in items) / 1e9


def _benchmark_training(settings: Mapping[str, Any], gpu: GPU) -> Training:
    """What `benchmarks.gpu` trains, by the settings that it stores."""
    from transformers import LlamaConfig

    dims = replace(ModelDims.of(LlamaConfig(**settings["shape"])), repeats_keys=not gpu.has_varlen)
    rank = settings["rank"]
    return Training(dims, BaseSettings(), LoraSettings(r=rank, alpha=rank), OptimSettings())


def _step(stored: Mapping[str, Any]) -> tuple[float, float, float]:
    """Median seconds and packed tokens of a step, and mean tokens of a row."""
    seconds = stored["seconds_a_step"]["median"]
    row_tokens = stored["tokens_per_s"]["median"] / stored["rows_per_s"]
    return seconds, seconds * stored["packed_tokens_per_s"]["median"], row_tokens


def _read(path: Path) -> Any:
    """Return a stored result; None where there is none, or a stage that failed or was skipped."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return None if {"failed", "skipped"} & content.keys() else content
