"""`plan`: memory, time and cost of every phase on a machine, before it is rented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mv_lightning.atomic import write_json
from mv_lightning.commands.options import (
    add_options,
    build,
    command_parser,
    parse_options,
    split_args,
)
from mv_lightning.commands.phases import phase_files
from mv_lightning.data.splits import SplitPlan
from mv_lightning.model.gpus import gpu_named
from mv_lightning.planning.measured import (
    CPU,
    Comparison,
    compare_cpu_results,
    compare_gpu_results,
    compare_run,
    find_device,
    stored_comparisons,
    training_of,
)
from mv_lightning.planning.plan import (
    Choice,
    PhasePlan,
    PhaseWork,
    fastest,
    mean_tokens,
    plan_phase,
    tokens_of_rows,
)
from mv_lightning.planning.speed import Cluster, Device, Training
from mv_lightning.reporting.blocks import Table
from mv_lightning.schema import EncodedRows

GBIT = 1e9 / 8
"""Bytes."""


@dataclass(frozen=True)
class PlanOptions:
    """Options of the command."""

    machine: str = "H100"
    """The GPU: T4, L4, A10, 4090, A100-40, L40, L40S, A100-80, H100-PCIe, H100 or H200; cpu is this
    machine."""
    gpus: int = 1
    """GPUs of a node."""
    nodes: int = 1
    """Nodes."""
    network: float | None = None
    """Bandwidth of a node's network in Gbit/s; needed for several nodes."""
    price: float | None = None
    """Price of a GPU for an hour, in any currency."""
    mean_tokens: float | None = None
    """Mean tokens of a row; no rows are read, and nothing is assumed to be shared. Default: the
    rows of data.source are tokenised and packed as in training."""
    scaling: list[int] = field(default_factory=list)
    """Numbers of GPUs for a table of the last phase, on nodes of --gpus."""
    compare: list[Path] = field(default_factory=list)
    """Folders of finished runs: compare them, and the stored results of benchmarks, with what is
    predicted for them, and plan nothing."""
    folder: Path = Path("configs")
    """Folder of phase1.yaml, phase2.yaml, ..."""
    results: Path = Path("benchmarks/results")
    """Folder of the benchmarks' results, which give the efficiency where there are any."""
    json: Path | None = None
    """File that gets all figures. Comparisons in plan.json of --results are shown by later plans.
    """

    def __post_init__(self) -> None:
        if min(self.gpus, self.nodes, *self.scaling) < 1:
            raise ValueError(
                "expected --gpus, --nodes and --scaling to be at least 1, got "
                f"{self.gpus}, {self.nodes} and {self.scaling}"
            )
        for name in ("network", "price", "mean_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"expected --{name.replace('_', '-')} above 0, got {value}")
        several = self.nodes > 1 or max(self.scaling, default=1) > self.gpus
        if several and self.network is None:
            raise ValueError(
                "expected --network for several nodes, got none. State the Gbit/s of a node's "
                "network, such as --network 400"
            )
        if self.machine == CPU and (self.gpus * self.nodes > 1 or self.scaling):
            raise ValueError(f"expected one process with --machine {CPU}, got several. Name a GPU")


def run(args: list[str]) -> None:
    """Print the plan of every phase, or comparisons with runs.

    Args:
        args: The command line after `plan`.

    Raises:
        ValueError: The options are wrong, the base model's config or the rows cannot be read, or a
            run cannot be compared.
    """
    parser = command_parser(
        "plan",
        "Compute memory, time and cost of all phases on a machine, and the fastest settings that "
        "fit; of the base model only the config is read.",
        "All other options are those of fit, such as --config configs/h100.yaml. They override "
        "the files of the phases.",
    )
    add_options(parser, "plan", PlanOptions)
    own_args, fit_args = split_args(parser, args)
    options = build(PlanOptions, parse_options(parser, own_args).plan)
    if options.compare:
        comparisons = compare_cpu_results(options.results)
        comparisons += compare_gpu_results(options.results)
        for run_dir in options.compare:
            comparisons += compare_run(run_dir, options.results)
        print(_comparison_table(comparisons).plain())
        content = {"comparisons": [asdict(comparison) for comparison in comparisons]}
    else:
        content = _plan(options, fit_args)
    if options.json is not None:
        write_json(options.json, content)


def _plan(options: PlanOptions, fit_args: Sequence[str]) -> dict[str, Any]:
    from mv_lightning.training.cli import parse_all

    device = find_device(options.machine, options.results)
    network = float("inf") if options.network is None else options.network * GBIT
    cluster = Cluster(device, options.gpus, options.nodes, network)
    files = phase_files(options.folder)
    command_lines = [["fit", "--config", str(file), *fit_args] for file in files]
    phases = parse_all(command_lines)
    gpu = gpu_named(options.machine)
    training = training_of(phases[0]["model"], gpu, phases[0]["trainer"]["precision"])
    works = [_work(settings, options.mean_tokens) for settings in phases]
    plans = [plan_phase(work, training, cluster) for work in works]
    print(_heading(training, cluster))
    for plan in plans:
        print(f"\n{_phase_table(plan, device, options.price).plain()}\n{_advice(plan, cluster)}")
    chosen = plans[-1].recommended or plans[-1].configured
    print(f"\nphase {plans[-1].phase}, as recommended\n{_memory_table(chosen).plain()}")
    if len(plans) > 1:
        print(f"\n{_total(plans, options.price)}")
    scaled = _scaling(works[-1], training, cluster, options.scaling)
    if scaled:
        print(f"\nphase {works[-1].phase} on several GPUs")
        print(_scaling_table(scaled, works[-1].step_rows).plain())
    print(f"\n{_accuracy(stored_comparisons(options.results))}")
    return {
        "machine": asdict(cluster),
        "phases": [_plan_values(plan, options.price) for plan in plans],
        "scaling": [_choice_values(choice, options.price) for choice in scaled],
    }


def _work(settings: Mapping[str, Any], mean: float | None) -> PhaseWork:
    """How much a phase computes, by its settings; its rows are read unless a mean is given."""
    data, trainer = settings["data"], settings["trainer"]
    if data["packing"] != "clean":
        raise ValueError(f"expected data.packing=clean for a plan, got {data['packing']}")
    plan = SplitPlan(**data["splits"])
    if mean is None:
        encoded, order_N = _rows(settings)
        rows, tokens = len(encoded), tokens_of_rows(encoded, order_N)
        mean = len(encoded.prefix_ids) + float(encoded.lengths_N.mean())
    else:
        rows, tokens = plan.train_rows, mean_tokens(mean, data["max_length"])
    return PhaseWork(
        phase=data["phase"],
        rows=rows,
        batch_size=data["batch_size"],
        accumulate=trainer["accumulate_grad_batches"],
        tokens=tokens,
        row_tokens=mean,
        max_epochs=1 if trainer["max_epochs"] is None else trainer["max_epochs"],
        max_steps=trainer["max_steps"],
        validation_rows=plan.rows - plan.train_rows,
        eval_every=settings["run"]["eval_every"],
        eval_tokens=data["eval_tokens"],
    )


def _rows(settings: Mapping[str, Any]) -> tuple[EncodedRows, np.ndarray]:
    """Read and tokenise the training rows of a phase, and order them; nothing is stored."""
    import lightning.pytorch as pl

    from mv_lightning.training.datamodule import VerdictDataModule

    data, model = settings["data"], settings["model"]
    datamodule = VerdictDataModule(
        data["source"],
        data["phase"],
        SplitPlan(**data["splits"]),
        data["prompt"],
        data["max_length"],
        data["batch_size"],
        base=model["base"]["name"],
        run_dir=settings["run"]["dir"],
        pair_weight=model["pair_weight"],
    )
    # Lightning's trial run: no file is written.
    datamodule.trainer = pl.Trainer(
        accelerator="cpu", devices=1, fast_dev_run=True, enable_model_summary=False
    )
    datamodule.setup("fit")
    return datamodule.splits["train"].encoded, datamodule.training_order(0)


def _heading(training: Training, cluster: Cluster) -> str:
    device = cluster.device
    return (
        f"{training.base.name}, quantization {training.base.quantization}, LoRA r "
        f"{training.lora.r}: {training.trained:,} trained parameters, "
        f"{training.needed_flops / 1e9:.2f} GFLOP per packed token\n"
        f"{cluster.nodes} x {cluster.gpus} {device.name}, {device.memory / 1e9:.1f} GB, "
        f"{device.flops_per_s / 1e12:.4g} TFLOP/s, of which training reaches "
        f"{device.efficiency:.0%} ({device.basis})"
    )


def _phase_table(plan: PhasePlan, device: Device, price: float | None) -> Table:
    choices = [plan.configured]
    head = [f"phase {plan.phase}", "as configured"]
    if plan.recommended is not None:
        choices.append(plan.recommended)
        head.append("recommended")
    time = f"computed, efficiency {device.basis.partition(' ')[0]}"

    def row(name: str, basis: str, values: Sequence[str]) -> list[str]:
        return [name, *values, basis]

    rows = [
        row("rows of a micro-batch", "setting", [str(c.micro_batch) for c in choices]),
        row("gradient_checkpointing", "setting", [str(c.checkpointing).lower() for c in choices]),
        row("strategy", "computed", [c.strategy for c in choices]),
        row("processes", "computed", [str(c.gpus) for c in choices]),
        row("peak GB", "computed", [f"{c.peak_bytes / 1e9:.2f}" for c in choices]),
        row("steps", "computed", [f"{c.steps:,}" for c in choices]),
        row("seconds a step: computing", time, [f"{c.computing:.3f}" for c in choices]),
        row(
            "seconds a step: communicating", "computed", [f"{c.communicating:.3f}" for c in choices]
        ),
        row("packed tokens per second", time, [f"{c.tokens_per_s:,.0f}" for c in choices]),
        row("hours", time, [f"{c.hours:.3f}" for c in choices]),
    ]
    if price is not None:
        rows.append(row("cost", time, [f"{c.cost(price):.2f}" for c in choices]))
    return Table([*head, "basis"], rows)


def _advice(plan: PhasePlan, cluster: Cluster) -> str:
    """What fits at most, and the reason for the recommended strategy."""
    choice, most = plan.recommended, plan.largest_micro_batch
    largest = f"the largest micro-batch has {most:,} rows of the longest length, all recomputed; "
    if choice is None:
        return largest + "nothing fits: lower data.max_length or model.lora.r, or add memory"
    if choice.strategy == "sharded base":
        return (
            "trainer.strategy=sharded_base (configs/fsdp.yaml), because beside a whole copy of the "
            f"base a GPU has room for {most} of the {choice.micro_batch} rows, all recomputed; "
            f"{choice.shards} GPUs of each machine share a copy"
        )
    if choice.gpus == cluster.size == 1:
        return largest + "one process, because there is one device"
    unused = cluster.size - choice.gpus
    reason = "the base fits on each GPU and only gradients of the adapters are exchanged"
    if unused:
        reason = f"{unused} more would not shorten the phase"
    return f"{largest}{choice.strategy}, because {reason}"


def _memory_table(choice: Choice) -> Table:
    rows = [(item.name, f"{item.bytes / 1e9:.2f}", item.formula) for item in choice.items]
    rows.append(("peak", f"{choice.peak_bytes / 1e9:.2f}", ""))
    return Table(("in the memory", "GB", "computed as"), rows)


def _total(plans: Sequence[PhasePlan], price: float | None) -> str:
    choices = [plan.recommended or plan.configured for plan in plans]
    text = f"all phases, as recommended: {sum(choice.hours for choice in choices):.2f} hours"
    if price is not None:
        text += f", cost {sum(choice.cost(price) for choice in choices):.2f}"
    return text


def _scaling(
    work: PhaseWork, training: Training, cluster: Cluster, counts: Sequence[int]
) -> list[Choice]:
    """The fastest choice on each number of GPUs, all of which are used; without what fits none."""
    choices = [fastest(work, training, cluster, [count]) for count in counts]
    return [choice for choice in choices if choice is not None]


def _scaling_table(choices: Sequence[Choice], step_rows: int) -> Table:
    head = (
        "GPUs",
        "strategy",
        "rows a step",
        "steps",
        "s computing",
        "s communicating",
        "share computing",
        "hours",
        "GPU hours",
    )
    rows = []
    for choice in choices:
        rows.append(
            (
                f"{choice.gpus:,}",
                choice.strategy,
                f"{choice.gpus * step_rows:,}",
                f"{choice.steps:,}",
                f"{choice.computing:.3f}",
                f"{choice.communicating:.4f}",
                f"{choice.computing / choice.step_seconds:.1%}",
                f"{choice.hours:.3f}",
                f"{choice.hours * choice.gpus:.2f}",
            )
        )
    return Table(head, rows)


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for comparison in comparisons:
        rows.append(
            (
                comparison.what,
                comparison.quantity,
                f"{comparison.predicted:.2f}",
                f"{comparison.measured:.2f}",
                f"{comparison.error:+.0%}",
            )
        )
    return Table(("run", "quantity", "predicted", "measured", "error"), rows)


def _accuracy(comparisons: Sequence[Comparison]) -> str:
    """The errors of the last comparison."""
    if not comparisons:
        return "No comparison with measured runs is stored (plan --compare)."
    parts = []
    for quantity in sorted({comparison.quantity for comparison in comparisons}):
        errors = [c.error for c in comparisons if c.quantity == quantity]
        parts.append(f"{quantity} {min(errors):+.0%} to {max(errors):+.0%} ({len(errors)} runs)")
    return f"Errors of the last comparison with measured runs: {', '.join(parts)}."


def _plan_values(plan: PhasePlan, price: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "phase": plan.phase,
        "largest_micro_batch": plan.largest_micro_batch,
        "configured": _choice_values(plan.configured, price),
        "recommended": None,
    }
    if plan.recommended is not None:
        values["recommended"] = _choice_values(plan.recommended, price)
    return values


def _choice_values(choice: Choice, price: float | None) -> dict[str, Any]:
    return {
        **asdict(choice),
        "peak_bytes": choice.peak_bytes,
        "tokens_per_s": choice.tokens_per_s,
        "hours": choice.hours,
        "cost": None if price is None else choice.cost(price),
    }
