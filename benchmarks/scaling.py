"""Training throughput by row length and effective batch size: rows and tokens per CPU second.

    python -m benchmarks.scaling [--layers 6]

SmolLM2-135M's architecture in NF4 with random weights, r 32. Every layer costs the same, so 6 of
its 30 layers show how the cost grows; the whole model takes five times as long. Rows are random
ids with lengths within a quarter of the mean, after a shared prefix of 32; an optimizer step is
split into micro-batches of at most 2,048 tokens. Writes `benchmarks/results/scaling.json`, `.md`
and `.png`; the plot needs matplotlib (the extra `plots`).
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.harness import BUNDLED, DTYPE, MODEL, RANK, SHORT_RUN_OPTIM
from benchmarks.measure import RESULTS, Cost, record, timed
from mv_lightning.atomic import atomic_file
from mv_lightning.data.batching import pack
from mv_lightning.model import adapters, base, optim, verdict
from mv_lightning.schema import DEFAULT_SEED, EncodedRows

if TYPE_CHECKING:
    from peft import PeftModel

LENGTHS, BATCHES = (200, 400, 800, 1_600), (1, 8, 32)
"""Mean tokens per row, prefix included; rows per optimizer step."""
PREFIX, MAX_TOKENS = 32, 2_048
VERDICT_IDS = (10, 11)
"""Any two ids: the weights are random."""


def model_of(layers: int) -> PeftModel:
    """Return the adapted model: random weights in the bundled model's architecture."""
    from transformers import AutoConfig

    source = base.load_tokenizer(BUNDLED).name_or_path
    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers = layers
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        settings = base.BaseSettings(name=folder, weights="random", gradient_checkpointing=False)
        loaded = base.load_base(settings, DTYPE, torch.device("cpu"))
    torch.manual_seed(DEFAULT_SEED)
    return adapters.attach(loaded, adapters.LoraSettings(r=RANK, alpha=RANK))


def random_rows(mean: int, rows: int) -> EncodedRows:
    """Return rows of random ids whose mean length is exactly `mean`."""
    rng = np.random.default_rng([DEFAULT_SEED, mean, rows])
    spread = rng.integers(-mean // 4, mean // 4 + 1, rows // 2)
    lengths = mean - PREFIX + np.concatenate([spread, -spread, np.zeros(rows % 2, dtype=np.int64)])
    return EncodedRows(
        ids_T=rng.integers(100, 40_000, lengths.sum()).astype(np.int32),
        starts_N=np.concatenate([[0], np.cumsum(lengths)]),
        labels_N=rng.integers(0, 2, rows).astype(np.int8),
        rows_N=np.arange(rows),
        truncated_N=np.zeros(rows, dtype=np.int32),
        question_prefix_N=np.zeros(rows, dtype=np.int32),
        prefix_ids=tuple(range(100, 100 + PREFIX)),
    )


def step(model: PeftModel, optimizer: torch.optim.Optimizer, rows: EncodedRows) -> None:
    """Do one optimizer step on all rows."""
    groups: list[list[int]] = [[]]
    for row, length in enumerate(rows.lengths_N.tolist()):
        if groups[-1] and PREFIX + rows.lengths_N[groups[-1]].sum() + length > MAX_TOKENS:
            groups.append([])
        groups[-1].append(row)
    causal = model.get_base_model()
    for group in groups:
        batch = pack(rows, np.array(group), len(rows))
        with torch.autocast("cpu", torch.bfloat16, enabled=DTYPE is torch.bfloat16):
            hidden_TD = verdict.hidden_states(causal, batch)
            loss_B = verdict.verdict_loss(
                hidden_TD, verdict.output_head(causal), batch, VERDICT_IDS
            )
        (loss_B.sum() / len(rows)).backward()
    optimizer.step()
    optimizer.zero_grad()


def plot(measurements: list[dict[str, Any]], path: Path) -> None:
    """Plot rows and tokens per CPU second over the mean length, one line per batch size."""
    from matplotlib.figure import Figure

    from mv_lightning.metrics.plots import save_png

    figure = Figure(figsize=(9, 3.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for batch in BATCHES:
        line = [m for m in measurements if m["batch"] == batch]
        lengths = [m["mean_length"] for m in line]
        for axes, unit in ((left, "rows_per_cpu_s"), (right, "tokens_per_cpu_s")):
            axes.plot(
                lengths, [m[unit] for m in line], marker="o", label=f"effective batch {batch}"
            )
    for axes, title in ((left, "rows per CPU second"), (right, "tokens per CPU second")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
        axes.minorticks_off()
        axes.set_xlabel("mean tokens of a row")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set_ylim(bottom=0)
    left.legend(frameon=False)
    save_png(figure, path)


def table(measurements: list[dict[str, Any]]) -> str:
    """Return the throughput as Markdown: a row per length, a column per batch size."""
    heads = [f"effective batch {batch}" for batch in BATCHES]
    lines = [f"| mean tokens | {' | '.join(heads)} |"]
    lines.append("| ---: |" + " ---: |" * len(BATCHES))
    for length in LENGTHS:
        line = [m for m in measurements if m["mean_length"] == length]
        cells = [
            f"{m['rows_per_cpu_s']:.2f} rows, {m['tokens_per_cpu_s']:,.0f} tokens" for m in line
        ]
        lines.append(f"| {length:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every pair of length and batch size, write the table and the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6, help="layers of 30")
    parser.add_argument(
        "--least-tokens",
        type=int,
        default=3_200,
        help="repeat a step until so many tokens were processed",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = model_of(options.layers)
    optimizer = optim.build_optimizer(adapters.trained_parameters(model).values(), SHORT_RUN_OPTIM)
    step(model, optimizer, random_rows(LENGTHS[0], BATCHES[1]))  # warms up
    measurements: list[dict[str, Any]] = []
    for length in LENGTHS:
        for batch in BATCHES:
            rows = random_rows(length, batch)
            times = max(1, round(options.least_tokens / (length * batch)))
            costs: list[Cost] = [
                timed(partial(step, model, optimizer, rows))[0] for _ in range(times)
            ]
            cpu = float(np.median([cost["cpu_s"] for cost in costs]))
            found = {
                "mean_length": length,
                "batch": batch,
                "costs": costs,
                "rows_per_cpu_s": batch / cpu,
                "tokens_per_cpu_s": batch * length / cpu,
            }
            print(
                f"{length} tokens, {batch} rows: {batch / cpu:.2f} rows/CPU s, {times} steps",
                flush=True,
            )
            measurements.append(found)
    record(
        "scaling",
        settings={"model": f"{MODEL}, random weights", "rank": RANK, **vars(options)},
        measurements=measurements,
    )
    with atomic_file(RESULTS / "scaling.md") as tmp_path:
        tmp_path.write_text(table(measurements), encoding="utf-8")
    print(table(measurements))
    plot(measurements, RESULTS / "scaling.png")


if __name__ == "__main__":
    main()
