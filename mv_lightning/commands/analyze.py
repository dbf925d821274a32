"""`analyze`: what is in a source before anything is trained on it, and what trivial verifiers reach on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.atomic import write_json
from mv_lightning.data.chat import usable_prompts
from mv_lightning.data.encoding import encode_rows
from mv_lightning.data.sources import Source, load_source
from mv_lightning.data.splits import SplitPlan, Splits, manifest, plan_splits
from mv_lightning.metrics import baselines, plots
from mv_lightning.metrics.bootstrap import mean_interval
from mv_lightning.reporting.blocks import Picture, Section, Table, write_report
from mv_lightning.reporting.phase_blocks import splits_section
from mv_lightning.schema import TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

Lengths = dict[str, dict[str, np.ndarray]]
"""What is counted -> of which text -> int64 [N]."""
WORDS, TOKENS, ROW_TOKENS = "words", "tokens", "tokens of a row"
LIMITS = (512, 1024, 2048)
"""Tokens of a row at which the share that would be cut is told."""
QUANTILES = {
    "min": 0.0,
    "5 %": 0.05,
    "25 %": 0.25,
    "median": 0.5,
    "75 %": 0.75,
    "95 %": 0.95,
    "99 %": 0.99,
    "max": 1.0,
}
TOKEN_SAMPLE = 5_000
"""Rows that are tokenised: a share has a standard error of at most 0.7 points."""
BAG_SAMPLE = 20_000
"""Training rows of the bag of words, at most: one phase of the report."""

_UNLIMITED = 1 << 30  # tokens
_TOKENISED = 200  # rows at a time: a tokenizer's answer takes tens of times the bytes of its text
_SLICE = (
    1 << 11
)  # rows whose bytes are looked at together: a megabyte or two, twenty with what is counted of them


def run_analyze(words: list[str]) -> None:
    """Analyse a source and write `report.md`, `report.html`, `analysis.json` and the figures.

    Args:
        words: The command line after `analyze`.

    Raises:
        ValueError: The source, the tokenizer or the split plan cannot be used.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="python -m mv_lightning analyze",
        description="Lengths, balance, leaks and trivial baselines of a source.",
    )
    parser.add_argument("--source", required=True, help="labelled rows, named as for --data.source")
    parser.add_argument(
        "--tokenizer",
        metavar="BASE",
        help="base model whose tokens are counted; default: words only",
    )
    parser.add_argument("--out", type=Path, default=Path("analysis"), help="folder of the report")
    parser.add_class_arguments(SplitPlan, "splits")
    options = parser.instantiate_classes(parser.parse_args(words))

    source = load_source(options.source)
    lengths = measure_lengths(source, options.tokenizer, options.splits.seed)
    analysis = analyze(source, lengths, options.splits)
    write_json(options.out / "analysis.json", analysis)
    pictures = _draw(lengths, options.out)
    write_report(options.out, f"Analysis of {source.name}", _sections(analysis, pictures))
    print(
        f"{analysis['counts']['rows']:,} rows analysed: {options.out / 'report.html'}, report.md beside it"
    )


def measure_lengths(source: Source, tokenizer: str | None, seed: int) -> Lengths:
    """Count words in all rows, and tokens in a sample of them.

    Args:
        source: N rows.
        tokenizer: Base model whose tokens are counted; None for words alone.
        seed: Seed of the sample.

    Returns:
        int64 lengths by what is counted: `WORDS` of question and solution [N]; with a tokenizer also `TOKENS` of
        both, and `ROW_TOKENS` of the whole row under each prompt, as many as were sampled.

    Raises:
        ValueError: The tokenizer cannot be read.
    """
    table = source.table.with_format("arrow")[:]
    lengths = {WORDS: {name: _words(table[name]) for name in ("question", "solution")}}
    if tokenizer is not None:
        from mv_lightning.model.base import BaseSettings, load_tokenizer

        sample_N = np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:TOKEN_SAMPLE])
        lengths |= _tokens(
            source.table[sample_N], sample_N, load_tokenizer(BaseSettings(name=tokenizer))
        )
    return lengths


def analyze(source: Source, lengths: Lengths, plan: SplitPlan) -> dict[str, Any]:
    """Bring together what the report tells, as plain values.

    Args:
        source: Labelled rows.
        lengths: What `measure_lengths` found.
        plan: How the rows would be divided.

    Returns:
        The content of `analysis.json`.

    Raises:
        ValueError: The source does not hold what the plan asks for.
    """
    assert source.labels_N is not None
    splits = plan_splits(source.labels_N, source.question_ids_N, plan)
    return {
        "source": source.name,
        "counts": dict(source.counts),
        "true_share": float(source.labels_N.mean()),
        "lengths": {
            counted: {name: _quantiles(lengths_N) for name, lengths_N in of_texts.items()}
            for counted, of_texts in lengths.items()
        },
        "truncated_share": {
            prompt: {str(limit): float((lengths_N > limit).mean()) for limit in LIMITS}
            for prompt, lengths_N in lengths.get(ROW_TOKENS, {}).items()
        },
        "splits": manifest(
            source.fingerprint, plan, splits, source.labels_N, source.question_ids_N
        ),
        "baselines": _baselines(source, lengths[WORDS]["solution"], splits, plan.seed),
    }


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """Words of each text, int64 [N]: runs of what is not white space (in ASCII). On bytes: 1 GB takes seconds."""
    blank = np.zeros(256, dtype=bool)
    blank[list(b" \t\n\r\v\f")] = True
    counts = [np.empty(0, dtype=np.int64)]
    for chunk in column.chunks:
        for part in (chunk.slice(start, _SLICE) for start in range(0, len(chunk), _SLICE)):
            _, offsets, values = part.buffers()
            bounds = np.frombuffer(offsets, np.int32)[part.offset : part.offset + len(part) + 1]
            text = np.frombuffer(values or b"", np.uint8)[bounds[0] : bounds[-1]]
            bounds = bounds - bounds[0]
            blank_T = blank[text]
            before_T = np.r_[True, blank_T[:-1]][: len(text)]
            before_T[bounds[:-1][bounds[:-1] < len(text)]] = True
            starts = np.r_[0, np.cumsum(~blank_T & before_T)]
            counts.append(np.diff(starts[bounds]))
    return np.concatenate(counts)


def _tokens(
    columns: dict[str, Sequence[str]], rows_N: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> Lengths:
    lengths: dict[str, defaultdict[str, list[int]]] = {
        TOKENS: defaultdict(list),
        ROW_TOKENS: defaultdict(list),
    }
    for start in range(0, len(rows_N), _TOKENISED):
        some_N = rows_N[start : start + _TOKENISED]
        some = {name: column[start : start + _TOKENISED] for name, column in columns.items()}
        for name in ("question", "solution"):
            lengths[TOKENS][name] += map(
                len, tokenizer(some[name], add_special_tokens=False)["input_ids"]
            )
        for name, prompt in usable_prompts(tokenizer).items():
            encoded = encode_rows(some, None, some_N, prompt, tokenizer, _UNLIMITED)
            lengths[ROW_TOKENS][name] += (encoded.lengths_N + len(encoded.prefix_ids)).tolist()
    return {
        counted: {name: np.array(found) for name, found in of.items()}
        for counted, of in lengths.items()
    }


def _baselines(source: Source, words_N: np.ndarray, splits: Splits, seed: int) -> dict[str, Any]:
    """Accuracy of each baseline on all held-out rows, fitted on the training rows of all phases."""
    assert source.labels_N is not None
    # Rows are picked by `datasets`: Arrow's own `take` would first copy every chunk of the column into one.
    answers = source.table.select_columns("answer")
    train_N = np.concatenate(splits.train)
    held_N = np.concatenate([splits.test, *splits.val])
    if not len(held_N):
        return {}
    train_labels_N, labels_N = source.labels_N[train_N], source.labels_N[held_N]
    bag_N = train_N[np.random.default_rng(seed).permutation(len(train_N))[:BAG_SAMPLE]]
    verdicts_N, covered_N = baselines.lookup(
        source.question_ids_N[train_N],
        answers[train_N]["answer"],
        train_labels_N,
        source.question_ids_N[held_N],
        answers[held_N]["answer"],
    )
    verdicts = {
        "majority": baselines.majority(train_labels_N, len(held_N)),
        "length only": baselines.length_only(words_N[train_N], train_labels_N, words_N[held_N]),
        "bag of words": baselines.bag_of_words(
            _texts(source, bag_N), source.labels_N[bag_N], _texts(source, held_N), seed
        ),
        "lookup": verdicts_N,
    }
    question_ids_N = source.question_ids_N[held_N]
    found = {
        name: None if said_N is None else _accuracy(said_N == labels_N, question_ids_N)
        for name, said_N in verdicts.items()
    }
    return {
        **found,
        "lookup where it knows": _accuracy(
            (verdicts_N == labels_N)[covered_N], question_ids_N[covered_N]
        ),
    }


def _texts(source: Source, rows_N: np.ndarray) -> list[str]:
    columns = source.table[rows_N]
    return ["\n".join(row) for row in zip(*(columns[name] for name in TEXT_COLUMNS), strict=True)]


def _accuracy(right_N: np.ndarray, question_ids_N: np.ndarray) -> dict[str, Any]:
    if not len(right_N):
        return {"rows": 0, "accuracy": None, "interval": None}
    interval = mean_interval(right_N[:, None].astype(np.float64), question_ids_N)[0].tolist()
    return {"rows": len(right_N), "accuracy": float(right_N.mean()), "interval": interval}


def _quantiles(lengths_N: np.ndarray) -> dict[str, float]:
    values = np.quantile(lengths_N, list(QUANTILES.values()), method="inverted_cdf").tolist()
    return {"mean": float(lengths_N.mean()), **dict(zip(QUANTILES, values, strict=True))}


# ---- the report ------------------------------------------------------------------------------------------


def _draw(lengths: Lengths, folder: Path) -> dict[str, Picture]:
    """Write a histogram of each kind of length."""
    pictures = {}
    for counted, of_texts in lengths.items():
        title = f"{counted.capitalize()}, {len(next(iter(of_texts.values()))):,} rows"
        file = folder / f"{counted.replace(' ', '_')}.png"
        marks = LIMITS if counted == ROW_TOKENS else ()
        plots.save_png(plots.length_histogram(of_texts, counted, title, marks), file)
        pictures[counted] = Picture(file, f"Histogram: {title}")
    return pictures


def _sections(analysis: dict[str, Any], pictures: dict[str, Picture]) -> list[Section]:
    facts = [(name.replace("_", " "), f"{many:,}") for name, many in analysis["counts"].items()]
    sections = [
        Section(
            "Rows", [Table(("", ""), [*facts, ("labelled True", f"{analysis['true_share']:.1%}")])]
        )
    ]
    for counted, of_texts in analysis["lengths"].items():
        head = ("", *next(iter(of_texts.values())))
        quantiles = [
            (name, *(f"{value:,.0f}" for value in row.values())) for name, row in of_texts.items()
        ]
        sections.append(Section(counted.capitalize(), [Table(head, quantiles), pictures[counted]]))
    return [
        *sections,
        _cut(analysis),
        splits_section(analysis["splits"]),
        _reached(analysis["baselines"]),
    ]


def _cut(analysis: dict[str, Any]) -> Section:
    title = "Rows longer than a limit"
    if not analysis["truncated_share"]:
        return Section(title, ["Not counted: name a base model with --tokenizer."])
    rows = [
        (prompt, *(f"{share:.2%}" for share in row.values()))
        for prompt, row in analysis["truncated_share"].items()
    ]
    sampled = min(analysis["counts"]["rows"], TOKEN_SAMPLE)
    told = f"Estimated on {sampled:,} rows drawn at random. The middle of a longer row's solution is cut out."
    return Section(
        title, [told, Table(("prompt", *(f"{limit:,} tokens" for limit in LIMITS)), rows)]
    )


def _reached(found: dict[str, Any]) -> Section:
    title = "Trivial baselines"
    if not found:
        return Section(title, ["Not run: the split plan holds no rows out."])
    told = (
        "Accuracy on the validation rows of all phases and the sub-test together, after the training rows of all "
        f"phases (bag of words: at most {BAG_SAMPLE:,} of them), with 95 % intervals (questions resampled). A verifier "
        "must beat all of these."
    )
    rows = []
    for name, reached in found.items():
        if reached is None:
            rows.append((name, "not run: pip install 'mv-lightning[analyze]'", "", ""))
        elif reached["accuracy"] is None:
            rows.append((name, "no such rows", "", "0"))
        else:
            low, high = reached["interval"]
            rows.append(
                (
                    name,
                    f"{reached['accuracy']:.1%}",
                    f"{low:.1%} to {high:.1%}",
                    f"{reached['rows']:,}",
                )
            )
    lookup = (
        "Lookup says True to the answer most often labelled True for the same question in the training rows. Where no "
        "training row tells, it says what most training rows are; its second line leaves these rows out. It knows an "
        f"answer for {found['lookup where it knows']['rows'] / found['lookup']['rows']:.1%} of the rows."
    )
    return Section(title, [told, Table(("", "accuracy", "interval", "rows"), rows), lookup])
