"""Llama-3-8B in NF4, as its config describes it, on GPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mv_lightning.model.adapters import LoraSettings
from mv_lightning.model.base import BaseSettings
from mv_lightning.model.families import FAMILIES
from mv_lightning.model.gpus import GPUS
from mv_lightning.model.optim import OptimSettings
from mv_lightning.planning.measured import gpu_device
from mv_lightning.planning.memory import ModelDims
from mv_lightning.planning.plan import PhaseWork, mean_tokens
from mv_lightning.planning.speed import Cluster, Training

LLAMA = ModelDims(
    family=FAMILIES["llama"],
    layers=32,
    hidden=4_096,
    inner=14_336,
    queries=4_096,
    keys=1_024,
    softcapped_heads=0,
    vocabulary=128_256,
    projections=6_979_321_856,
    largest=58_720_256,
    other=1_050_939_392,
    sides=2_621_440,
)
TRAINING = Training(LLAMA, BaseSettings(), LoraSettings(), OptimSettings())
"""With every layer recomputed and r 128."""
LARGER = replace(
    TRAINING, dims=replace(LLAMA, layers=80, projections=68_000_000_000, largest=235_000_000)
)
"""As large as a model of 70B."""
NO_RESULTS = Path("nowhere")
WORK = PhaseWork(
    phase=2,
    rows=19_800,
    batch_size=2,
    accumulate=4,
    tokens=mean_tokens(385, 2_048),
    row_tokens=385,
    validation_rows=200,
)


def cluster(gpu: str, gpus: int = 1, nodes: int = 1, network: float = 12.5e9) -> Cluster:
    """GPUs whose efficiency is the assumed one."""
    sheet = next(sheet for sheet in GPUS if sheet.name == gpu)
    return Cluster(gpu_device(sheet, NO_RESULTS), gpus, nodes, network)
