"""`tune`: search for settings with a lower validation loss than the report's.

Settings are chosen on the validation rows of a phase; the best ones and the report's are then
evaluated on the held-out test set, which the search never sees.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.evaluations import read_metrics
from mv_lightning.artifacts.layout import StudyFolder
from mv_lightning.atomic import atomic_file
from mv_lightning.commands.options import (
    PROGRAM,
    add_options,
    build,
    command_parser,
    local_path,
    parse_options,
    split_args,
)
from mv_lightning.experiments.child_run import check_status, run_child
from mv_lightning.experiments.option_files import option_args, shared_args
from mv_lightning.experiments.search import FINISHED, FIRST, PRUNED, Budget, Search, TrialRecord
from mv_lightning.experiments.search_space import SearchSpace, read_space
from mv_lightning.experiments.trial_run import TrialRun, train
from mv_lightning.formatting import flatten_settings
from mv_lightning.metrics.plots import save_png, search_history, search_importances
from mv_lightning.reporting.blocks import Table
from mv_lightning.reporting.phase_blocks import with_interval
from mv_lightning.training.settings import resume_locked_settings
from mv_lightning.versioning import write_versioned_json


@dataclass(frozen=True)
class TuneOptions:
    """Options of the command."""

    folder: Path = Path("checkpoints/tune")
    """Folder of the search. The same command continues what is there; several processes with the
    same folder share its trials."""
    trials: int | None = None
    """Start no more trials than these, counted over all starts and processes."""
    minutes: float | None = None
    """Start no trial after this time in trials, added up over all starts and processes. A trial
    that is running is finished."""

    def __post_init__(self) -> None:
        given = [budget for budget in (self.trials, self.minutes) if budget is not None]
        if not given or min(given) <= 0:
            raise ValueError(
                "expected a budget above 0, got "
                f"--trials {self.trials} --minutes {self.minutes}. Set one of the two or both"
            )


@dataclass(frozen=True)
class _Trials:
    """How the trials of a search are run."""

    folder: StudyFolder
    fit_args: Sequence[str]
    """What they have in common."""
    phase: int

    def run(self, number: int, params: Mapping[str, Any]) -> TrialRun:
        """Return how a trial is trained."""
        return TrialRun(
            args=[*self.fit_args, *option_args(params)],
            phase=self.folder.trial(number).phase(self.phase),
            record=self.folder.trial_record(number),
            log=self.folder.trial_log(number),
        )


def run(args: list[str]) -> None:
    """Search until the budget is spent, then write the best settings and evaluate them.

    Args:
        args: The command line after `tune`.

    Raises:
        ValueError: The space or an option cannot be used, or a trial failed for a reason other than
            its settings.
    """
    from mv_lightning.training.cli import parse

    parser = command_parser(
        "tune",
        "Search for settings with a lower validation log loss. The first trial has the report's.",
        "All other options are those of fit; they are the same in all trials.",
    )
    parser.add_argument("space", metavar="SPACE", help="YAML file of the options to search")
    add_options(parser, "tune", TuneOptions)
    own_args, fit_args = split_args(parser, args)
    if fit_args and not fit_args[0].startswith("-"):
        own_args.append(fit_args.pop(0))
    values = parse_options(parser, own_args)
    options, space = build(TuneOptions, values.tune), read_space(local_path(values.space))
    base_args = shared_args(space.base, space.options, fit_args)
    first = space.first_trial(parse(["fit"]))
    for corner in space.corners():  # every value is checked before time is spent
        settings = parse(["fit", *base_args, *option_args(corner)])
    if not settings["data"]["splits"]["val_fraction"]:
        raise ValueError("expected data.splits.val_fraction above 0: trials are compared by it")
    folder = StudyFolder(options.folder)
    search = Search(
        folder,
        space,
        first,
        _common_settings(settings, space),
        space.first_rung or settings["run"]["eval_every"],
        settings["seed_everything"],
    )
    trials = _Trials(folder, base_args, settings["data"]["phase"])
    _search(search, trials, Budget(options.trials, options.minutes))
    _finish(search, trials, space, has_test_set=bool(settings["data"]["splits"]["test_rows"]))


def _common_settings(settings: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """What decides the result of a trial beside its own settings, and the space."""
    flat = flatten_settings(settings)
    common = {**resume_locked_settings(flat), "data.source": flat["data.source"]}
    common |= {"model.base.name": flat["model.base.name"], "data.prompt": flat["data.prompt"]}
    kept = {name: value for name, value in common.items() if name not in space.dimensions}
    dimensions = {name: list(dim.ends) for name, dim in space.dimensions.items()}
    return {**kept, "space": dimensions}


def _search(search: Search, trials: _Trials, budget: Budget) -> None:
    while (trial := search.next_trial(budget)) is not None:
        started = len(search.records())
        print(f"\ntrial {trial.number} ({started} so far): {_text(trial.params)}", flush=True)
        run = trials.run(trial.number, trial.params)
        outcome = train(run, trial.report)
        log_loss, steps = run.result() if outcome == FINISHED else (None, 0)
        trial.close(outcome, log_loss, steps)
        shutil.rmtree(run.phase.checkpoints, ignore_errors=True)  # it is not resumed any more
        result = outcome if log_loss is None else f"validation log loss {log_loss:.4f}"
        best, minutes = search.best(), sum(record.minutes for record in search.records())
        lowest = "" if best is None else f"; lowest {best.log_loss:.4f} (trial {best.number})"
        limit = "" if budget.minutes is None else f" of {budget.minutes:g}"
        print(f"trial {trial.number}: {result}{lowest}; {minutes:.1f}{limit} min", flush=True)


def _finish(search: Search, trials: _Trials, space: SearchSpace, has_test_set: bool) -> None:
    """Write the files of the study, evaluate the best trial and the first, and print both."""
    folder, records, best = trials.folder, search.records(), search.best()
    _write_table(folder.table, records, list(space.dimensions))
    _write_plots(folder, records, search.importances())
    if best is None:
        print(f"\nno trial is finished; see {folder.table}")
        return
    if any(record.state == "running" for record in records):
        print("\nother processes still run trials; the last of them evaluates the best one")
        return
    _write_overlay(folder.best, best, space)
    chosen = {"best": best}
    if records[FIRST].log_loss is not None:
        chosen = {"report": records[FIRST], "best": best}
    metrics, summary = {}, {}
    for name, record in chosen.items():
        run = trials.run(record.number, record.params)
        if has_test_set and "test" not in read_metrics(run.phase):
            command = ["test", *run.fit_args()]
            check_status(command, run_child(command, run.log), run.log)
        metrics[name] = read_metrics(run.phase)
        summary[name] = {
            "trial": record.number,
            "params": dict(record.params),
            "metrics": metrics[name],
        }
    write_versioned_json(folder.summary, {"trials": len(records), **summary})
    print(f"\n{_result_table(chosen, metrics).plain()}")
    print(f"\nthe best settings: {folder.best}; all trials: {folder.table}")


def _write_table(path: Path, records: Sequence[TrialRecord], names: Sequence[str]) -> None:
    with atomic_file(path) as tmp_path, tmp_path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "state", "log_loss", "steps", "minutes", *names])
        for record in records:
            params = [record.params.get(name, "") for name in names]
            loss = "" if record.log_loss is None else record.log_loss
            minutes = round(record.minutes, 2)
            table.writerow([record.number, record.state, loss, record.steps, minutes, *params])


def _write_plots(
    folder: StudyFolder, records: Sequence[TrialRecord], importances: Mapping[str, float]
) -> None:
    finished = {r.number: r.log_loss for r in records if r.log_loss is not None}
    stopped = {r.number: r.last_loss for r in records if r.state == PRUNED and r.last_loss}
    if finished:
        save_png(search_history(finished, stopped), folder.plot("history"))
    if importances:
        save_png(search_importances(importances), folder.plot("importances"))


def _write_overlay(path: Path, best: TrialRecord, space: SearchSpace) -> None:
    """Write a configuration file of what the space sets, with the best trial's values."""
    import yaml

    nested: dict[str, Any] = {}
    for name, value in {**space.options, **best.params}.items():
        group = nested
        *groups, last = name.split(".")
        for part in groups:
            group = group.setdefault(part, {})
        group[last] = value
    configs = " ".join(f"--config {file}" for file in space.base)
    header = (
        f"# Overlay: the best of a search, trial {best.number}, validation log loss "
        f"{best.log_loss:.4f}.\n#\n#   {PROGRAM} fit {configs} --config {path}\n"
    )
    with atomic_file(path) as tmp_path:
        tmp_path.write_text(header + yaml.safe_dump(nested, sort_keys=False), encoding="utf-8")


def _result_table(
    chosen: Mapping[str, TrialRecord], metrics: Mapping[str, Mapping[str, Any]]
) -> Table:
    rows = []
    for name, record in chosen.items():
        cells = [f"{name}, trial {record.number}"]
        for stage in ("val", "test"):
            scores = metrics[name].get(stage)
            for metric in ("log_loss", "auroc"):
                cells.append("-" if scores is None else with_interval(scores["metrics"][metric]))
        rows.append(cells)
    head = ["settings", "val log loss", "val AUROC", "test log loss", "test AUROC"]
    return Table(head, rows)


def _text(params: Mapping[str, Any]) -> str:
    texts = []
    for name, value in params.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        texts.append(f"{name.rpartition('.')[2]}={text}")
    return ", ".join(texts)
