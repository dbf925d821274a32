"""What the steps of a training do on their device, from a trace of torch.profiler.

On a GPU only its own activity and the calls of CUDA are recorded: recording every operation of the
host as well would slow the host down, and the GPU would seem idle. On a CPU the operations are
recorded; the outermost ones stand for kernels, and nothing is launched.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED_STEPS = 3
"""First steps, which are not recorded: one in which the model is loaded, two that warm up."""
LARGEST = 25
"""Kernels that are listed."""
NAME_CHARS = 120
"""Characters of a kernel's name that are kept; CUDA names its templates in full."""
ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
CALLS = frozenset({"cuda_runtime", "cuda_driver"})
"""Categories of a trace."""

Event = dict[str, Any]
"""A complete event of a trace: `name`, `cat`, `ts` and `dur` in microseconds, `tid`."""


def step_profiler(steps: int, trace: Path) -> profile:
    """Return a profiler whose `step` is called after each of `SKIPPED_STEPS + steps` steps.

    Args:
        steps: Steps that are recorded.
        trace: Where the trace is written after the last of them, as JSON for chrome://tracing.
    """
    gpu = torch.cuda.is_available()
    return profile(
        activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU],
        schedule=schedule(wait=1, warmup=SKIPPED_STEPS - 1, active=steps, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(trace)),
    )


def summarise(trace: Path, steps: int) -> dict[str, Any]:
    """Return the figures of an average step.

    Args:
        trace: What `step_profiler` wrote.
        steps: Steps that it recorded.

    Returns:
        `step_ms`, from the first kernel to the last; `idle_share`, the share of this time in which
        no kernel ran; kernels, launches and synchronisations a step, the latter two None on a CPU;
        and the kernels that took most time. Two of the synchronisations are the harness's: its
        clock, and the loss that it reads.
    """
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    complete = [event for event in events if event.get("ph") == "X"]
    kernels = [event for event in complete if event.get("cat") in ON_DEVICE]
    calls: Counter[str] | None = None
    if kernels:
        calls = Counter(event["name"] for event in complete if event.get("cat") in CALLS)
    else:
        kernels = outermost(event for event in complete if event.get("cat") == "cpu_op")
    start = min(event["ts"] for event in kernels)
    window = max(event["ts"] + event["dur"] for event in kernels) - start
    return {
        "profiled_steps": steps,
        "step_ms": window / steps / 1e3,
        "idle_share": 1 - busy(kernels) / window,
        "kernels_a_step": len(kernels) / steps,
        "launches_a_step": _count(calls, "Launch") / steps if calls else None,
        "synchronisations_a_step": _count(calls, "Synchronize") / steps if calls else None,
        "largest": largest(kernels, steps),
    }


def outermost(events: Iterable[Event]) -> list[Event]:
    """Return the events that are not within another one of their thread."""
    found = []
    # Of events that start together, the longest contains the others.
    ordered = sorted(events, key=lambda event: (event["tid"], event["ts"], -event["dur"]))
    for _, of_thread in groupby(ordered, key=lambda event: event["tid"]):
        end = float("-inf")
        for event in of_thread:
            if event["ts"] >= end:
                found.append(event)
                end = event["ts"] + event["dur"]
    return found


def busy(events: Iterable[Event]) -> float:
    """Return the microseconds in which at least one event runs."""
    total, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event["ts"]):
        its_end = event["ts"] + event["dur"]
        total += max(0.0, its_end - max(event["ts"], end))
        end = max(end, its_end)
    return total


def largest(events: Iterable[Event], steps: int) -> list[dict[str, Any]]:
    """Return the names with the most time, with their number and milliseconds in a step.

    Args:
        events: Kernels.
        steps: Steps that they are from.
    """
    durations = defaultdict(list)
    for event in events:
        durations[event["name"][:NAME_CHARS]].append(event["dur"])
    ordered = sorted(durations.items(), key=lambda item: -sum(item[1]))
    return [
        {"name": name, "a_step": len(times) / steps, "ms_a_step": sum(times) / steps / 1e3}
        for name, times in ordered[:LARGEST]
    ]


def _count(calls: Counter[str], part: str) -> int:
    return sum(count for name, count in calls.items() if part in name)
