"""The page of a source's analysis: tables and histograms of what `source_analysis` computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mv_lightning.metrics import plots
from mv_lightning.reporting.blocks import Picture, Section, Table, write_report
from mv_lightning.reporting.phase_blocks import splits_section
from mv_lightning.reporting.source_analysis import BAG_SAMPLE, KNOWN_LOOKUP, LIMITS
from mv_lightning.reporting.text_lengths import ROW_TOKENS, TOKEN_SAMPLE, Lengths


def write_analysis(folder: Path, analysis: Mapping[str, Any], lengths: Lengths) -> None:
    """Write `report.md`, `report.html` and the histograms.

    Args:
        folder: Folder of the files.
        analysis: The content of `analysis.json`.
        lengths: The lengths behind it.
    """
    pictures = _histograms(lengths, folder)
    counts = analysis["counts"].items()
    facts = [(name.replace("_", " "), f"{count:,}") for name, count in counts]
    facts.append(("labelled True", f"{analysis['true_share']:.1%}"))
    sections = [Section("Rows", [Table(("", ""), facts)])]
    for counted, texts in analysis["lengths"].items():
        table = _quantiles_table(texts)
        sections.append(Section(counted.capitalize(), [table, pictures[counted]]))
    sections += [
        _truncated_section(analysis),
        splits_section(analysis["splits"]),
        _baselines_section(analysis["baselines"]),
    ]
    write_report(folder, f"Analysis of {analysis['source']}", sections)


def _histograms(lengths: Lengths, folder: Path) -> dict[str, Picture]:
    pictures = {}
    for counted, texts in lengths.items():
        title = f"{counted.capitalize()}, {len(next(iter(texts.values()))):,} rows"
        file = folder / f"{counted.replace(' ', '_')}.png"
        marks = LIMITS if counted == ROW_TOKENS else ()
        plots.save_png(plots.length_histogram(texts, counted, title, marks), file)
        pictures[counted] = Picture(file, f"Histogram: {title}")
    return pictures


def _quantiles_table(texts: Mapping[str, Mapping[str, float]]) -> Table:
    head = ("", *next(iter(texts.values())))
    rows = []
    for name, quantiles in texts.items():
        rows.append((name, *(f"{value:,.0f}" for value in quantiles.values())))
    return Table(head, rows)


def _truncated_section(analysis: Mapping[str, Any]) -> Section:
    title = "Rows longer than a limit"
    if not analysis["truncated_share"]:
        return Section(title, ["Not counted: name a base model with --model.base.name."])
    rows = []
    for prompt, shares in analysis["truncated_share"].items():
        rows.append((prompt, *(f"{share:.2%}" for share in shares.values())))
    sampled = min(analysis["counts"]["rows"], TOKEN_SAMPLE)
    note = (
        f"Estimated on {sampled:,} rows drawn at random. A longer row loses the middle of its "
        "solution."
    )
    head = ("prompt", *(f"{limit:,} tokens" for limit in LIMITS))
    return Section(title, [note, Table(head, rows)])


def _baselines_section(accuracies: Mapping[str, Any]) -> Section:
    title = "Trivial baselines"
    if not accuracies:
        return Section(title, ["Not run: the split plan holds no rows out."])
    note = (
        "Accuracy on the validation rows of all phases and the held-out test set together, fitted "
        f"on the training rows of all phases (bag of words: at most {BAG_SAMPLE:,} of them), with "
        "95 % intervals (questions resampled). A verifier must be better than all of these."
    )
    rows = [_baseline_row(name, accuracy) for name, accuracy in accuracies.items()]
    known = accuracies[KNOWN_LOOKUP]["rows"] / accuracies["lookup"]["rows"]
    lookup = (
        "Lookup says True to the answer that is most often labelled True for the same question in "
        "the training rows. Where no training row has the question, it says what most training "
        f"rows are; its second line leaves these rows out. It knows an answer for {known:.1%} of "
        "the rows."
    )
    return Section(title, [note, Table(("", "accuracy", "interval", "rows"), rows), lookup])


def _baseline_row(name: str, accuracy: Mapping[str, Any] | None) -> tuple[str, ...]:
    if accuracy is None:
        return (name, "not run: pip install 'mv-lightning[analyze]'", "", "")
    if accuracy["accuracy"] is None:
        return (name, "no such rows", "", "0")
    low, high = accuracy["interval"]
    interval = f"{low:.1%} to {high:.1%}"
    return (name, f"{accuracy['accuracy']:.1%}", interval, f"{accuracy['rows']:,}")
