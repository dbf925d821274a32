"""The scripts of `docs/consumers` give the log-odds of the verifier, as far as bf16 allows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.consumers import CLASSIFIERS, Agreement, agreements, results_table
from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.data.sources import load_source
from mv_lightning.model.adapter_files import WEIGHTS

pytest.importorskip("trl", reason="the scripts need the extra `consumers`")
pytest.importorskip("sentence_transformers", reason="the scripts need the extra `consumers`")


@pytest.fixture(scope="module")
def adapter(trained_phase: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose log-odds are far apart, with a calibration that is not neutral."""
    folder = tmp_path_factory.mktemp("spread") / "adapter"
    shutil.copytree(trained_phase / "adapter", folder)
    weights = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "lora_B" in name:
            weight.normal_(std=0.2, generator=generator)
    save_file(weights, folder / WEIGHTS)
    stored = json.loads((folder / CALIBRATION_FILE).read_text())
    stored["calibration"] |= {"temperature": 1.7, "threshold": 0.05}
    (folder / CALIBRATION_FILE).write_text(json.dumps(stored))
    return folder


@pytest.fixture(scope="module")
def results(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Agreement]]:
    table = load_source("synthetic:40", split="test").table
    rows = table.select_columns(["question", "solution", "answer"]).to_list()[:12]
    rows[3]["answer"] = rows[5]["answer"] = "no number <|eot|>"
    work = tmp_path_factory.mktemp("consumers")
    yield list(agreements(adapter, rows, work, methods=("GRPO",)))


def test_the_log_odds_are_those_of_the_verifier(results: list[Agreement]) -> None:
    print(results_table(results).markdown())
    spread = np.ptp(results[0].expected_N)
    assert len(results) == len(CLASSIFIERS) + 1 and spread > 0.2
    for result in results:
        assert result.largest_difference < 0.1 * spread, result.consumer
        assert np.ptp(result.got_N) > 0, result.consumer
    for result in results[: len(CLASSIFIERS)]:
        ranks = [odds_N.argsort().argsort() for odds_N in (result.got_N, result.expected_N)]
        assert np.corrcoef(ranks)[0, 1] > 0.95, result.consumer


def test_the_table_states_versions_and_differences(results: list[Agreement]) -> None:
    rows = results_table(results).rows
    assert [row[2] for row in rows] == ["12", "12", "8"]
    assert all(row[1].count(".") == 2 and float(row[4]) >= 0 for row in rows)


def test_flips_are_counted_at_the_threshold() -> None:
    got_N, expected_N = np.array([0.3, 0.5, -1.0]), np.array([0.5, 0.5, 0.3])
    agreement = Agreement("some", "1.0", got_N, expected_N, threshold=0.4)
    assert (agreement.flips, agreement.largest_difference) == (1, 1.3)
