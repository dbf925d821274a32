"""Figures of a step from a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.step_profile import (
    SKIPPED_STEPS,
    busy,
    largest,
    outermost,
    step_profiler,
    summarise,
)


def event(name: str, start: float, duration: float, cat: str = "kernel", tid: int = 7) -> Any:
    return {"ph": "X", "name": name, "cat": cat, "ts": start, "dur": duration, "tid": tid}


def test_the_figures_of_a_gpu(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    events = [
        {"ph": "M", "name": "process_name"},
        event("matmul", 1_000, 400),
        event("matmul", 1_500, 300),
        event("norm", 1_700, 200, tid=8),  # beside the product for 100 microseconds
        event("copy", 2_900, 100, "gpu_memcpy"),
        event("cudaLaunchKernel", 0, 10, "cuda_runtime"),
        event("cudaLaunchKernelExC", 20, 10, "cuda_runtime"),
        event("cuLaunchKernel", 40, 10, "cuda_driver"),
        event("cudaStreamSynchronize", 60, 9_000, "cuda_runtime"),
        event("cudaMemcpyAsync", 80, 10, "cuda_runtime"),
    ]
    trace.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    figures = summarise(trace, steps=2)
    assert figures["step_ms"] == pytest.approx(1.0)
    assert figures["idle_share"] == pytest.approx(1 - (400 + 400 + 100) / 2_000)
    assert figures["kernels_a_step"] == 2
    assert figures["launches_a_step"] == 1.5
    assert figures["synchronisations_a_step"] == 0.5
    assert figures["largest"][0] == {"name": "matmul", "a_step": 1, "ms_a_step": 0.35}


def test_outermost_operations_of_each_thread() -> None:
    linear, inner = event("linear", 0, 100, tid=1), event("mm", 0, 60, tid=1)
    after, other = event("add", 100, 5, tid=1), event("mul", 20, 10, tid=2)
    assert outermost([other, inner, after, linear]) == [linear, after, other]


def test_times_are_counted_once_and_names_cut() -> None:
    events = [event("a", 5, 10), event("b", 0, 20), event("c", 30, 1), event("d", 30.5, 1)]
    assert busy(events) == pytest.approx(21.5)
    names = [kernel["name"] for kernel in largest([event("x" * 500, 0, 2), event("y", 2, 3)], 1)]
    assert names == ["y", "x" * 120]


def test_the_steps_of_a_cpu_are_profiled(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    a = torch.ones(8, 8)
    with step_profiler(4, trace) as profiler:
        for step in range(SKIPPED_STEPS + 4):
            for _ in range(3 if step >= SKIPPED_STEPS else 50):
                torch.mm(a, a)
            profiler.step()
    figures = summarise(trace, 4)
    assert figures["kernels_a_step"] == 3
    assert figures["largest"][0]["name"] == "aten::mm"
    assert 0 < figures["idle_share"] < 1
    assert figures["launches_a_step"] is figures["synchronisations_a_step"] is None
