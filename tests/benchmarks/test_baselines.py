"""TRL in its child process; skipped without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import baselines
from benchmarks.baselines import CHECKPOINT_STEPS, REPORT, BaselineTrainer

pytest.importorskip("trl")

STEPS = CHECKPOINT_STEPS + 3


def start(tmp_path: Path, name: str, base: Path) -> BaselineTrainer:
    texts = tmp_path / "texts.jsonl"
    rows = [
        {"prompt": f"Is {n} + {n} = {2 * n + n % 2}?", "completion": [" True", " False"][n % 2]}
        for n in range(8 * STEPS)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return BaselineTrainer(
        name,
        model=str(base),
        random=False,
        unsloth=False,
        texts=str(texts),
        split_text=False,
        rank=4,
        steps=STEPS,
        optim={"learning_rate": 1e-3, "warmup_steps": 2},
        config=REPORT,
        output=str(tmp_path / name),
        save=str(tmp_path / name / "adapter"),
    )


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [step["loss"] for step in steps]


def adapter(folder: Path) -> torch.Tensor:
    """Return the matrices that start at zero, in one vector."""
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    return torch.cat([w.float().flatten() for name, w in weights.items() if "lora_B" in name])


@pytest.mark.slow
def test_a_killed_training_continues_from_its_last_checkpoint(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "WORK", tmp_path / "work")
    straight = start(tmp_path, "straight", tiny_folder)
    for _ in range(STEPS):
        straight.step()
    straight.finish()

    killed = start(tmp_path, "killed", tiny_folder)
    for _ in range(STEPS - 1):
        killed.step()
    killed.stop()
    continued = start(tmp_path, "killed", tiny_folder)
    assert losses(continued.steps) == losses(straight.steps)[:CHECKPOINT_STEPS]
    assert continued.steps == killed.steps[:CHECKPOINT_STEPS], "their costs, too"
    while len(continued.steps) < STEPS:
        continued.step()
    continued.finish()
    # The trainer's resumption is not exact. Without the optimizer's states, every weight would
    # move by a whole learning rate again, 0.4 of their mean here.
    assert losses(continued.steps) == pytest.approx(losses(straight.steps), abs=2e-3)
    expected, got = adapter(tmp_path / "straight"), adapter(tmp_path / "killed")
    assert (got - expected).abs().mean() < 0.03 * expected.abs().mean()
