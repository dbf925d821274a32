"""All GPU figures in one call of at most 10 minutes: Llama-3-8B, random weights, NF4, r 128.

    python -m benchmarks.gpu          # needs one GPU of 80 GB
    python -m benchmarks.gpu --tiny   # a small model on the CPU, only to check that the script runs

Nothing is downloaded (`benchmarks.llama`). Rows have the report's lengths: mean 385 tokens, at
most 1,929. Each stage runs in its own process, so that memory is measured separately and one
failure does not stop the others; its time limit is what remains of the whole:

- package: training with the settings of `configs/h100.yaml`; writing a checkpoint; prediction
- phase1: `configs/phase1.yaml` unchanged, 2 x 4 rows of 2,048 tokens with recomputation: the
  report's memory
- trl, unsloth: the report's settings on the rows that the package trained on, in the same order
- generate: prediction by generation, as in the report
- package_recomputed: training with recomputation of every layer

TRL and Unsloth must be available or installed before (`python -m benchmarks.baselines trl`, `...
unsloth`); otherwise pip's time counts as the stage's. Writes `benchmarks/results/gpu.json` after
every stage (`gpu_tiny.json` with `--tiny`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import REPORT, BaselineTrainer
from benchmarks.harness import BUNDLED, PROMPT, SHORT_RUN_OPTIM, STEP_ROWS, Training
from benchmarks.hf_reference import BATCH_SIZE, MAX_NEW_TOKENS, ReferenceModel, prompts
from benchmarks.llama import LLAMA_3_8B, TINY, write_base
from benchmarks.measure import WORK, Cost, record, spread, timed
from mv_lightning.atomic import write_json
from mv_lightning.model.base import BaseSettings, load_base, load_tokenizer
from mv_lightning.schema import DEFAULT_SEED

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BUDGET_S = 570
"""Time limit of all stages together."""
MEAN_TOKENS, LONGEST_ROW, MAX_LENGTH = 385, 1_929, 2_048
EPOCH_ROWS, PREDICTED_ROWS = 19_800, 10_000
"""These five are the report's."""
RECOMPUTE_ABOVE_TOKENS = 10_000
"""`gradient_checkpointing` of `configs/h100.yaml`, in packed tokens."""
LENGTHS_SIGMA = 0.45
"""Standard deviation of the log of a row's own tokens; few rows reach the report's maximum."""


@dataclass(frozen=True)
class Size:
    """Sizes of the measurements."""

    shape: dict[str, Any]
    rank: int
    steps: int
    """Optimizer steps of each training."""
    warm_up: int
    """First steps, which are not counted."""
    predicted: int
    """Rows that the package predicts; the time of the report's 10,000 is computed from them."""
    generated: int
    """Rows that are predicted by generation, which is far slower."""
    new_tokens: int
    matrix: int
    """Side of the square matrix product that measures the GPU's throughput."""


REAL = Size(LLAMA_3_8B, 128, 20, 4, 2_000, 4 * BATCH_SIZE, MAX_NEW_TOKENS, 8_192)
SMALL = Size(TINY, 32, 3, 1, 48, BATCH_SIZE, 4, 512)


def write_rows(path: Path, rows: int, tokens: int | None = None) -> None:
    """Write synthetic rows whose solutions are repeated to the report's lengths.

    Args:
        path: JSON lines.
        rows: Number of rows.
        tokens: The minimum length of every row; None for the report's distribution.
    """
    from mv_lightning.data.prompts import load_prompt
    from mv_lightning.data.synthetic import synthetic_table
    from mv_lightning.schema import TEXT_COLUMNS

    tokenizer, prompt = load_tokenizer(BUNDLED), load_prompt(PROMPT)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    frame = count(
        prompt.instruction + prompt.body.format_map(dict.fromkeys(TEXT_COLUMNS, "")) + prompt.cue
    )
    draws = np.random.default_rng(DEFAULT_SEED).lognormal(0, LENGTHS_SIGMA, rows)
    own = (MEAN_TOKENS - frame) * draws / draws.mean()
    lengths = np.minimum(frame + own, LONGEST_ROW).round()
    if tokens is not None:
        lengths = np.full(rows, tokens)
    table = synthetic_table("train", min(rows, 200), seed=DEFAULT_SEED).to_pylist()
    with path.open("w", encoding="utf-8") as file:
        for number, length in enumerate(lengths.astype(int).tolist()):
            row = dict(table[number % len(table)])
            # Without the number, repeated rows would be counted as duplicates.
            row["question"] = f"{number}. {row['question']}"
            room = max(1, length - frame - count(row["question"]) - count(row["answer"]))
            ids = tokenizer(f"{row['solution']}\n", add_special_tokens=False)["input_ids"]
            row["solution"] = tokenizer.decode((ids * (room // len(ids) + 1))[:room])
            file.write(json.dumps(row) + "\n")


def stage_package(folder: Path, size: Size) -> dict[str, Any]:
    """Train, write a checkpoint and predict with one model; write the rows for the other stages."""
    from mv_lightning.data.batching import EVAL_TOKENS
    from mv_lightning.data.sources import load_source
    from mv_lightning.metrics.calibration import Calibration
    from mv_lightning.verifier import Verifier

    training, trainer, result = _trained(folder, size, RECOMPUTE_ABOVE_TOKENS)
    training.write_texts(folder / "texts.jsonl")
    path = folder / "checkpoint.ckpt"
    cost, _ = timed(lambda: trainer.save_checkpoint(path))
    checkpoint = {"checkpoint_gb": path.stat().st_size / 1e9, "checkpoint_s": cost["wall_s"]}

    adapted = training.module.adapted
    assert adapted is not None
    verifier = Verifier(
        model=adapted.to(DEVICE).eval(),
        tokenizer=training.module.tokenizer,
        prompt=training.data.prompt,
        max_length=MAX_LENGTH,
        calibration=Calibration(),
        dtype=torch.bfloat16,
        eval_tokens=4 * EVAL_TOKENS,  # as configs/h100.yaml
    )
    encoded = verifier.encode(load_source(training.source).table.select(range(size.predicted)))
    write_json(folder / "prompts.json", prompts(encoded)[: size.generated])
    verifier.raw_log_odds(encoded)  # warms up
    cost, odds_N = timed(lambda: verifier.raw_log_odds(encoded))
    rate = _matrix_rate(size.matrix)
    return {
        **result,
        **checkpoint,
        "predicted_rows": len(odds_N),
        "predict_s": cost["wall_s"] * PREDICTED_ROWS / len(odds_N),
        "matrix_flops_per_s": rate,
        "mfu": result["flops_per_token"] * result["packed_tokens_per_s"] / rate,
        "mfu_formula": "FLOPs per token = 4 x weights of projections + 6 x weights of adapters; "
        "times packed tokens per second, divided by the rate of square bf16 matrix products",
    }


def stage_phase(folder: Path, size: Size) -> dict[str, Any]:
    """Run phase 1 as a user does, on rows that fill the 2,048 tokens; return its figures."""
    from mv_lightning.cli import main as command

    rows, run = folder / "long.jsonl", folder / "run"
    write_rows(rows, 2 * STEP_ROWS * size.steps, MAX_LENGTH + 50)
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
        "trainer.accelerator": "gpu" if GPU else "cpu",
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
        "peak_gb": summary["peak_memory_gb"],
    }


def stage_baseline(folder: Path, size: Size, unsloth: bool) -> dict[str, Any]:
    """TRL, alone or with Unsloth, in the report's settings, on the package's rows in order."""
    base = folder / "base"
    if unsloth:
        if not GPU:
            raise RuntimeError("Unsloth needs a GPU")
        base = folder / "base_nf4"
        write_quantised(_base(folder), base)
        torch.cuda.empty_cache()
    trainer = BaselineTrainer(
        "baseline_unsloth" if unsloth else "baseline_trl",
        model=str(base),
        random=not unsloth,
        unsloth=unsloth,
        texts=str(folder / "texts.jsonl"),
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

    model.config.quantization_config = quantization_config("nf4", torch.bfloat16)
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
    rows = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    reference.generate(rows[:BATCH_SIZE], max_new_tokens=4)  # warms up
    cost, (_, written) = timed(lambda: reference.generate(rows, size.new_tokens))
    return {
        "predicted_rows": len(rows),
        "new_tokens_of_batches": written,
        "predict_s": cost["wall_s"] * PREDICTED_ROWS / len(rows),
    }


STAGES: dict[str, Callable[[Path, Size], dict[str, Any]]] = {
    "package": stage_package,
    "phase1": stage_phase,
    "trl": lambda folder, size: stage_baseline(folder, size, unsloth=False),
    "generate": stage_generate,
    "package_recomputed": lambda folder, size: _trained(folder, size, checkpointing=True)[2],
    "unsloth": lambda folder, size: stage_baseline(folder, size, unsloth=True),
}
"""The most important first, in case the time runs out."""
COMPARED = {"trl": "epoch_minutes", "unsloth": "epoch_minutes", "generate": "predict_s"}
"""Stages that are compared with the package, and by which figure."""


def times_as_fast(stages: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return how many times as fast the package is as each stage that finished.

    Args:
        stages: Results by stage; only `failed` for a stage that failed.
    """
    package = stages["package"]
    ratios = {}
    for name, unit in COMPARED.items():
        baseline = stages.get(name, {})
        if unit in baseline and unit in package:
            ratios[name] = baseline[unit] / package[unit]
    return ratios


def _base(folder: Path) -> Any:
    return load_base(_settings(folder, False), torch.bfloat16, DEVICE)


def _settings(folder: Path, checkpointing: bool | int) -> BaseSettings:
    return BaseSettings(
        str(folder / "base"), gradient_checkpointing=checkpointing, weights="random"
    )


def _trained(
    folder: Path, size: Size, checkpointing: bool | int
) -> tuple[Training, Any, dict[str, Any]]:
    """Train on the report's lengths; return the training, its trainer and its speed."""
    from mv_lightning.model.adapters import flops_per_token
    from mv_lightning.training.memory import peak_memory_gb

    training = Training(
        str(folder / "rows.jsonl"), size.steps, _settings(folder, checkpointing), size.rank
    )
    costs: list[Cost] = []
    trainer = training.run(
        size.steps,
        lambda _, cost: costs.append({**cost, "peak_gb": peak_memory_gb(DEVICE)}),
        accelerator="gpu" if GPU else "cpu",
    )
    assert training.module.adapted is not None
    batches = [training.batch(step) for step in range(size.warm_up, size.steps)]
    result = _speed(costs, size)
    a_row = result["rows_per_s"] / STEP_ROWS / len(batches)
    return (
        training,
        trainer,
        {
            **result,
            "tokens_per_s": a_row * sum(batch.tokens for batch in batches),
            "packed_tokens_per_s": a_row * sum(len(batch.ids_T) for batch in batches),
            "flops_per_token": flops_per_token(training.module.adapted),
        },
    )


def _speed(costs: list[Cost], size: Size) -> dict[str, Any]:
    seconds = [cost["wall_s"] for cost in costs[size.warm_up :]]
    rows_per_s = STEP_ROWS * len(seconds) / sum(seconds)
    return {
        "steps": costs,
        "seconds_a_step": spread(seconds),
        "rows_per_s": rows_per_s,
        "epoch_minutes": EPOCH_ROWS / rows_per_s / 60,
        "peak_gb": costs[-1]["peak_gb"],
    }


def _matrix_rate(side: int) -> float:
    """Return the rate of square bf16 matrix products, in operations per second."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / float(np.median([timed(lambda: a @ b)[0]["wall_s"] for _ in range(10)]))


def main() -> None:
    """Run all stages, or one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SMALL if options.tiny else REAL
    if options.tiny:
        torch.set_num_threads(1)
    elif not GPU:
        sys.exit("error: this benchmark needs a GPU, and PyTorch sees none. On a CPU, use --tiny")
    if options.stage:
        write_json(options.folder / "result.json", STAGES[options.stage](options.folder, size))
        return
    start, stages = time.perf_counter(), dict[str, dict[str, Any]]()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        folder = Path(name)
        write_base(folder / "base", size.shape)
        write_rows(folder / "rows.jsonl", max(size.predicted, 2 * STEP_ROWS * size.steps))
        for stage in STAGES:
            stages[stage] = _run(stage, folder, BUDGET_S - (time.perf_counter() - start))
            print(
                f"{stage}: {json.dumps({k: v for k, v in stages[stage].items() if k != 'steps'})}",
                flush=True,
            )
            record(
                "gpu_tiny" if options.tiny else "gpu",
                settings=asdict(size),
                stages=stages,
                times=times_as_fast(stages),
                seconds_so_far=time.perf_counter() - start,
            )


def _run(stage: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Run a stage as a process; return its result, or why there is none."""
    if seconds <= 0:
        return {"failed": "no time left"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--stage",
        stage,
        "--folder",
        str(folder),
        *sys.argv[1:],
    ]
    path, result = WORK / f"gpu_{stage}.log", folder / "result.json"
    result.unlink(missing_ok=True)
    start = time.perf_counter()
    with path.open("w", encoding="utf-8") as log:
        # In its own session, its children end with it.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"failed": f"took more than the remaining {seconds:.0f} s"}
    if process.returncode:
        return {"failed": path.read_text(encoding="utf-8").strip().splitlines()[-1]}
    values: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return {**values, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
