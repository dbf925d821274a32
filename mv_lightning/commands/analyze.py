"""`analyze`: what is in a source before anything is trained on it, and how accurate trivial
verifiers are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mv_lightning.commands.options import add_options, build, command_parser, parse_options
from mv_lightning.data.mixture import SourceSettings, load_sources
from mv_lightning.data.splits import SplitPlan
from mv_lightning.reporting.analysis_page import write_analysis
from mv_lightning.reporting.source_analysis import analyze_source
from mv_lightning.reporting.text_lengths import measure_lengths
from mv_lightning.versioning import write_versioned_json


@dataclass(frozen=True)
class SourceOptions:
    """What is analysed."""

    source: str | list[SourceSettings]
    """Labelled rows: a Hub id, a file or folder, `synthetic`, or several of these, as for fit."""


@dataclass(frozen=True)
class TokenizerOptions:
    """What tokens are counted."""

    name: str | None = None
    """Base model whose tokens are counted; default: only words are counted."""


@dataclass(frozen=True)
class AnalyzeOptions:
    """Options of the command."""

    out: Path = Path("analysis")
    """Folder of the report."""


def run(args: list[str]) -> None:
    """Analyse a source and write `report.md`, `report.html`, `analysis.json` and the figures.

    Args:
        args: The command line after `analyze`.

    Raises:
        ValueError: The source, the tokenizer or the split plan cannot be used.
    """
    parser = command_parser(
        "analyze", "Lengths, balance, leaks and trivial baselines of a labelled source."
    )
    splits_short = {field.name: f"--splits.{field.name}" for field in fields(SplitPlan)}
    add_options(parser, "data", SourceOptions, short={"source": "--source"})
    add_options(parser, "data.splits", SplitPlan, short=splits_short)
    add_options(parser, "model.base", TokenizerOptions, short={"name": "--tokenizer"})
    add_options(parser, "analyze", AnalyzeOptions)
    values = parse_options(parser, args)
    plan = build(SplitPlan, values.data.splits)
    out = build(AnalyzeOptions, values.analyze).out
    source = load_sources(values.data.source)
    lengths = measure_lengths(source, values.model.base.name, plan.seed)
    analysis = analyze_source(source, lengths, plan)
    write_versioned_json(out / "analysis.json", analysis)
    write_analysis(out, analysis, lengths)
    print(f"{analysis['counts']['rows']:,} rows analysed; written to {out / 'report.html'}")
