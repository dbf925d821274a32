"""The stages of `benchmarks.gpu`: one measurement each, run as a process of its own.

    python -m benchmarks.gpu_stages STAGE --folder FOLDER --results FOLDER [--tiny]

`benchmarks.gpu` describes the stages, and prepares what they read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from benchmarks.baselines import REPORT, BaselineTrainer
from benchmarks.gpu_inputs import long_rows, write_rows
from benchmarks.harness import BUNDLED, PROMPT, SHORT_RUN_OPTIM, STEP_ROWS, Training
from benchmarks.hf_reference import BATCH_SIZE, MAX_NEW_TOKENS, ReferenceModel, prompts
from benchmarks.llama import LLAMA_3_8B, TINY
from benchmarks.measure import Cost, peak_memory, record, spread, timed
from benchmarks.step_profile import SKIPPED_STEPS, step_profiler, summarise
from mv_lightning.model.base import BaseSettings, load_base, load_tokenizer
from mv_lightning.model.precision import default_dtype
from mv_lightning.schema import TEXT_COLUMNS, EncodedRows

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = default_dtype(DEVICE)
ACCELERATOR = "gpu" if GPU else "cpu"
MAX_LENGTH = 2_048
EPOCH_ROWS, PREDICTED_ROWS = 19_800, 10_000
"""These three are the report's."""
RECOMPUTE_ABOVE_TOKENS = 10_000
"""`gradient_checkpointing` of `configs/h100.yaml`, in packed tokens."""


@dataclass(frozen=True)
class Size:
    """Sizes of the measurements."""

    shape: dict[str, Any]
    rank: int
    profiled: int
    """Optimizer steps that are profiled."""
    steps: int
    """Optimizer steps of each training."""
    warm_up: int
    """First steps, which are not counted."""
    long_row: int
    """Tokens of a row of phase 1; a row of more than `MAX_LENGTH` is cut to this."""
    predicted: int
    """Rows that the package predicts; the time of the report's 10,000 is computed from them."""
    generated: int
    """Rows that are predicted by generation, which is far slower."""
    new_tokens: int
    matrix: int
    """Side of the square matrix product that measures the device's throughput."""

    @property
    def rows(self) -> int:
        """Rows that the largest stage needs."""
        # `Training` leaves some rows for its test split.
        trained = STEP_ROWS * (max(2 * self.steps, SKIPPED_STEPS + self.profiled) + 2)
        return max(self.predicted, trained)


REAL = Size(
    shape=LLAMA_3_8B,
    rank=128,
    profiled=30,
    steps=20,
    warm_up=4,
    long_row=MAX_LENGTH + 50,
    predicted=2_000,
    generated=4 * BATCH_SIZE,
    new_tokens=MAX_NEW_TOKENS,
    matrix=8_192,
)
SMALL = Size(
    shape=TINY,
    rank=32,
    profiled=2,
    steps=2,
    warm_up=1,
    long_row=200,
    predicted=2 * STEP_ROWS,
    generated=2,
    new_tokens=4,
    matrix=64,
)


def stage_profile(folder: Path, size: Size) -> dict[str, Any]:
    """Profile training steps; return kernels, launches and idle share of an average one."""
    steps = SKIPPED_STEPS + size.profiled
    training = _training(folder, size, steps)
    trace = folder / "trace.json"
    costs: list[Cost] = []
    with step_profiler(size.profiled, trace) as profiler:

        def after_step(_: int, cost: Cost) -> None:
            costs.append(cost)
            profiler.step()

        training.run(steps, after_step, ACCELERATOR)
    seconds = spread([cost["wall_s"] for cost in costs[SKIPPED_STEPS:]])
    return {"seconds_a_step": seconds, **summarise(trace, size.profiled)}


def stage_package(folder: Path, size: Size) -> dict[str, Any]:
    """Train, train with recomputation, write a checkpoint and predict, all with one model."""
    training = _training(folder, size, 2 * size.steps)
    costs: list[Cost] = []
    result: dict[str, Any] = {}

    def after_step(step: int, cost: Cost) -> None:
        costs.append({**cost, **peak_memory()})
        if step == size.steps - 1:
            recompute_every_layer(training)

    def at_end(trainer: pl.Trainer) -> None:
        result.update(_checkpoint(trainer, folder / "checkpoint.ckpt"))
        result.update(_prediction(training, folder, size))

    training.run(2 * size.steps, after_step, ACCELERATOR, at_end)
    stored = _package_speed(training, costs, size)
    return {
        **stored,
        "recomputed": _package_speed(training, costs, size, first=size.steps),
        **result,
        **_utilisation(training, stored["packed_tokens_per_s"], size.matrix),
    }


def stage_phase(folder: Path, size: Size) -> dict[str, Any]:
    """Run phase 1 as a user does, on rows that fill the 2,048 tokens; return its figures."""
    from mv_lightning.cli import main as command

    rows, run = folder / "long.jsonl", folder / "run"
    write_rows(rows, long_rows(_rows(folder), 2 * STEP_ROWS * size.steps, size.long_row))
    settings: dict[str, Any] = {
        "model.base.name": folder / "base",
        "model.base.weights": "random",
        "model.lora.r": size.rank,
        "data.source": rows,
        "data.splits.phases": 1,
        "data.splits.rows": STEP_ROWS * size.steps,
        "data.splits.val_fraction": 0,
        "data.splits.test_rows": 2,
        "trainer.max_steps": size.steps,
        "trainer.accelerator": ACCELERATOR,
        "run.dir": run,
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    command(
        ["fit", "--config", str(Path(__file__).parents[1] / "configs" / "phase1.yaml"), *options]
    )
    summary = json.loads((run / "phase1" / "summary.json").read_text(encoding="utf-8"))
    seconds = summary["minutes"] * 60
    return {
        **{name: summary[name] for name in ("steps", "rows", "tokens")},
        "rows_per_s": summary["rows"] / seconds,
        "tokens_per_s": summary["tokens"] / seconds,
        **peak_memory(),
    }


def stage_baseline(folder: Path, size: Size, unsloth: bool) -> dict[str, Any]:
    """TRL, alone or with Unsloth, in the report's settings, on the package's rows in order."""
    base, texts = folder / "base", folder / "texts.jsonl"
    _training(folder, size, 2 * size.steps).write_texts(texts)
    if unsloth:
        base = folder / "base_nf4"
        write_quantised(_base(folder), base)
        torch.cuda.empty_cache()
    trainer = BaselineTrainer(
        "baseline_unsloth" if unsloth else "baseline_trl",
        model=str(base),
        random=not unsloth,
        unsloth=unsloth,
        texts=str(texts),
        split_text=False,
        rank=size.rank,
        steps=size.steps,
        optim={"learning_rate": SHORT_RUN_OPTIM.lr, "warmup_steps": SHORT_RUN_OPTIM.warmup_steps},
        config=REPORT,
    )
    costs = [trainer.step() for _ in range(size.steps)]
    trainer.stop()
    return {"versions": trainer.versions, **_speed(costs, size)}


def write_quantised(model: Any, folder: Path) -> None:
    """Write a model with random weights in NF4, and its tokenizer, for Unsloth to load.

    Args:
        model: Loaded by `load_base`.
        folder: The folder to create.
    """
    from mv_lightning.model.quantization import quantization_config

    model.config.quantization_config = quantization_config("nf4", DTYPE)
    model.save_pretrained(folder)
    load_tokenizer(BUNDLED).save_pretrained(folder)


def stage_generate(folder: Path, size: Size) -> dict[str, Any]:
    """Prediction by generation in transformers and PEFT; random weights never end a text."""
    from peft import LoraConfig, get_peft_model

    from mv_lightning.data.prompts import load_prompt
    from mv_lightning.model.families import TARGETS

    model = _base(folder)
    model.set_attn_implementation("sdpa")
    lora = LoraConfig(
        r=size.rank, lora_alpha=size.rank, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    reference = ReferenceModel.of(
        get_peft_model(model, lora), load_tokenizer(BUNDLED), load_prompt(PROMPT)
    )
    rows = prompts(_encoded(folder, size.generated))
    reference.generate(rows[:BATCH_SIZE], max_new_tokens=4)  # warms up
    cost, (_, written) = timed(lambda: reference.generate(rows, size.new_tokens))
    return {
        "predicted_rows": len(rows),
        "new_tokens_of_batches": written,
        "predict_s": cost["wall_s"] * PREDICTED_ROWS / len(rows),
    }


STAGES: dict[str, Callable[[Path, Size], dict[str, Any]]] = {
    "profile": stage_profile,
    "package": stage_package,
    "phase1": stage_phase,
    "trl": lambda folder, size: stage_baseline(folder, size, unsloth=False),
    "generate": stage_generate,
    "unsloth": lambda folder, size: stage_baseline(folder, size, unsloth=True),
}
"""In the order in which they run: the most important first, in case the time runs out."""


def _rows(folder: Path) -> Path:
    return folder / "rows.jsonl"


def _settings(folder: Path) -> BaseSettings:
    return BaseSettings(
        str(folder / "base"), gradient_checkpointing=RECOMPUTE_ABOVE_TOKENS, weights="random"
    )


def _base(folder: Path) -> Any:
    settings = replace(_settings(folder), gradient_checkpointing=False)
    return load_base(settings, DTYPE, DEVICE)


def _training(folder: Path, size: Size, steps: int) -> Training:
    """Return a training on the report's lengths; trainings of as many steps use the same rows."""
    return Training(str(_rows(folder)), steps, _settings(folder), size.rank)


def recompute_every_layer(training: Training) -> None:
    """Recompute the activations of every layer from the next step on.

    The peak memory is counted anew.

    Args:
        training: A running training whose base was loaded with recomputation.
    """
    module = training.module
    module.base_settings = replace(module.base_settings, gradient_checkpointing=True)
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _checkpoint(trainer: pl.Trainer, path: Path) -> dict[str, Any]:
    cost, _ = timed(lambda: trainer.save_checkpoint(path))
    return {"checkpoint_gb": path.stat().st_size / 1e9, "checkpoint_s": cost["wall_s"]}


def _prediction(training: Training, folder: Path, size: Size) -> dict[str, Any]:
    from mv_lightning.data.batching import EVAL_TOKENS
    from mv_lightning.metrics.calibration import Calibration
    from mv_lightning.verifier import Verifier

    adapted = training.module.adapted
    assert adapted is not None
    verifier = Verifier(
        model=adapted.eval(),
        tokenizer=training.module.tokenizer,
        prompt=training.data.prompt,
        max_length=MAX_LENGTH,
        calibration=Calibration(),
        dtype=DTYPE,
        eval_tokens=4 * EVAL_TOKENS,  # as configs/h100.yaml
    )
    encoded = _encoded(folder, size.predicted)
    verifier.raw_log_odds(encoded)  # warms up
    cost, odds_N = timed(lambda: verifier.raw_log_odds(encoded))
    return {
        "predicted_rows": len(odds_N),
        "predict_s": cost["wall_s"] * PREDICTED_ROWS / len(odds_N),
    }


def _encoded(folder: Path, rows: int) -> EncodedRows:
    """Tokenise the first rows, as prompts without a label."""
    from mv_lightning.data.encoding import encode_rows
    from mv_lightning.data.prompts import load_prompt
    from mv_lightning.data.sources import load_source

    table = load_source(str(_rows(folder))).table.select(range(rows))
    columns = {name: table[name][:] for name in TEXT_COLUMNS}
    tokenizer, prompt = load_tokenizer(BUNDLED), load_prompt(PROMPT)
    return encode_rows(columns, None, np.arange(rows), prompt, tokenizer, MAX_LENGTH)


def _speed(costs: list[Cost], size: Size) -> dict[str, Any]:
    """Return the median speed of the steps after the warm-up, and the peak memory of all."""
    seconds = spread([cost["wall_s"] for cost in costs[size.warm_up :]])
    rows_per_s = STEP_ROWS / seconds["median"]
    return {
        "steps": costs,
        "seconds_a_step": seconds,
        "rows_per_s": rows_per_s,
        "epoch_minutes": EPOCH_ROWS / rows_per_s / 60,
        "peak_gb": costs[-1]["peak_gb"],
        "reserved_gb": costs[-1]["reserved_gb"],
    }


def _package_speed(
    training: Training, costs: list[Cost], size: Size, first: int = 0
) -> dict[str, Any]:
    """Return the speed of `size.steps` steps of a training, in tokens also.

    Args:
        training: The training.
        costs: Of all of its steps.
        size: Steps and warm-up.
        first: The first of the steps.
    """
    steps = range(first + size.warm_up, first + size.steps)
    batches = [training.batch(step) for step in steps]
    seconds = [costs[step]["wall_s"] for step in steps]
    pairs = list(zip(batches, seconds, strict=True))
    return {
        **_speed(costs[first : first + size.steps], size),
        "tokens_per_s": spread([batch.tokens / s for batch, s in pairs]),
        "packed_tokens_per_s": spread([len(batch.ids_T) / s for batch, s in pairs]),
    }


def _utilisation(
    training: Training, packed_tokens_per_s: dict[str, float], side: int
) -> dict[str, Any]:
    """Return the share of the device's matrix throughput that the training's FLOPs reach."""
    from mv_lightning.model.adapters import flops_per_token

    assert training.module.adapted is not None
    flops, rate = flops_per_token(training.module.adapted), _matrix_rate(side)
    return {
        "flops_per_token": flops,
        "matrix_flops_per_s": rate,
        "mfu": flops * packed_tokens_per_s["median"] / rate,
        "mfu_formula": "FLOPs per token = 4 x weights of projections + 6 x weights of adapters; "
        "times packed tokens per second, divided by the rate of square matrix products of "
        "the base's dtype",
    }


def _matrix_rate(side: int) -> float:
    """Return the rate of square matrix products, in operations per second."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=DTYPE) for _ in range(2))
    return 2 * side**3 / float(np.median([timed(lambda: a @ b)[0]["wall_s"] for _ in range(10)]))


def main() -> None:
    """Run one stage and write its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--folder", type=Path, required=True, help="with the base and the rows")
    parser.add_argument("--results", type=Path, required=True, help="folder of the result")
    parser.add_argument("--tiny", action="store_true", help="a small model")
    options = parser.parse_args()
    size = SMALL if options.tiny else REAL
    if not GPU:
        torch.set_num_threads(1)
    start = time.perf_counter()
    result = STAGES[options.stage](options.folder, size)
    seconds = time.perf_counter() - start
    record(options.stage, options.results, settings=asdict(size), seconds=seconds, **result)


if __name__ == "__main__":
    main()
