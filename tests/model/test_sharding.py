"""Layers that are divided among processes compute what whole ones compute."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mv_lightning.model import adapters, base, verdict
from mv_lightning.model.sharding import shard_layers, sharded_names
from tests.model.test_families import CONFIGS, CPU, batch, randomize, save_random_base

WORLD = 2
LORA = adapters.LoraSettings(r=8, alpha=16, dropout=0.25)


def step(model: torch.nn.Module, trained: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """The log-odds without gradients, then the losses and the gradients of three rows."""
    model.zero_grad()
    torch.manual_seed(4)  # of the dropout
    with torch.no_grad():
        odds_B = verdict.log_odds(
            verdict.hidden_states(model, batch()), verdict.output_head(model), batch(), (17, 42)
        )
    hidden_TD = verdict.hidden_states(model, batch())
    loss_B = verdict.verdict_loss(hidden_TD, verdict.output_head(model), batch(), (17, 42))
    loss_B.sum().backward()
    gradients = {name: parameter.grad for name, parameter in trained.items()}
    return {"odds": odds_B, "loss": loss_B.detach(), **gradients}


def compare(rank: int, root: Path, settings: dict[str, base.BaseSettings]) -> None:
    """What a process does: exits with 1 unless all families agree to the last bit."""
    torch.set_num_threads(1)
    store = f"file://{root / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    for name, of_base in settings.items():
        torch.manual_seed(1)
        lora = LORA if name == "llama" else adapters.LoraSettings(r=8, alpha=16)
        adapted = adapters.attach(base.load_base(of_base, torch.float32, CPU), lora)
        trained = adapters.trained_parameters(adapted)
        randomize(trained.items())
        model = adapted.get_base_model()
        frozen = sum(p.nbytes for p in model.base_model.layers.parameters() if not p.requires_grad)
        whole = step(model, trained)
        shard_layers(model, mesh)
        for again in range(2):
            for key, value in step(model, trained).items():
                assert torch.equal(value, whole[key]), (name, again, key)
            parameters = dict(model.named_parameters())
            parts = [parameters[sharded].to_local().nbytes for sharded in sharded_names(model)]
            assert 0.5 * frozen <= sum(parts) < 0.52 * frozen, (name, sum(parts), frozen)
        assert not any(isinstance(parameter, DTensor) for parameter in trained.values())
        shard_layers(model, mesh)  # what is divided stays as it is
        assert torch.equal(step(model, trained)["loss"], whole["loss"])
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "families", [["llama", "phi3"], pytest.param(list(CONFIGS), marks=pytest.mark.slow)]
)
def test_divided_layers_compute_the_same_to_the_last_bit(
    families: list[str], tmp_path: Path
) -> None:
    settings = {}
    for index, name in enumerate(families):
        save_random_base(CONFIGS[name], tmp_path / name)
        settings[name] = base.BaseSettings(
            name=str(tmp_path / name),
            quantization="nf4" if index % 3 != 1 else "none",
            gradient_checkpointing=index % 2 == 0,
        )
    context = multiprocessing.get_context("forkserver")
    processes = [
        context.Process(target=compare, args=(rank, tmp_path, settings)) for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WORLD
