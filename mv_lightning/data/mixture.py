"""Several sources in one set of rows, with a stated share of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.data.sources import Source, load_source, make_source
from mv_lightning.data.stored_tables import stored_table
from mv_lightning.hashing import sha256_bytes
from mv_lightning.schema import DEFAULT_SEED

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SourceSettings:
    """One of several sources of rows."""

    path: str
    """A file, a folder, a saved dataset, `synthetic:ROWS` or a dataset's id on the Hub."""
    name: str | None = None
    """Its name in reports. Default: the path."""
    rows: int | None = None
    """Rows to take from it, drawn at random with a fixed seed. Default: all."""
    share: float | None = None
    """Its share, from 0 to 1, of the rows of every split (of each class, where balanced). Shares
    are given for all sources or for none, and their sum is 1. Without shares, all rows are drawn
    with the same probability."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns of this source under other names, such as `expected: is_correct`."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: Rows or share out of range.
        """
        if self.rows is not None and self.rows < 1:
            raise ValueError(
                f"{self.path}: expected at least 1 row, got rows={self.rows}. Raise it."
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(
                f"{self.path}: expected a share above 0 and up to 1, got {self.share}. Correct it, "
                "or leave the source out."
            )

    @property
    def label(self) -> str:
        """The name in reports."""
        return self.name or self.path


Sources = str | Sequence[SourceSettings] | Sequence[Mapping[str, Any]]
"""One source by its name, or several by their settings (also as a configuration states them)."""


def load_sources(sources: Sources) -> Source:
    """Load and check labelled rows of one source or several.

    Args:
        sources: A name, see `load_source`; or settings of several sources. Their order matters:
            row numbers count through it.

    Returns:
        All rows. Questions are numbered over all sources, so that the same question in two of them
        is one question; `source_N` says where a row is from. The fingerprint covers the content,
        the source of each row and the shares. Rows of several sources have their numbers as IDs.

    Raises:
        ValueError: No source, repeated names, shares that do not fit, too few rows, or a source
            that cannot be loaded.
    """
    if isinstance(sources, str):
        return load_source(sources)
    settings = _check_settings(sources)
    loaded = []
    for item in settings:
        loaded.append(_take(load_source(item.path, columns=item.columns), item))
    if len(settings) == 1:
        return loaded[0]
    return _concatenate(settings, loaded)


def _check_settings(
    sources: Sequence[SourceSettings] | Sequence[Mapping[str, Any]],
) -> list[SourceSettings]:
    settings = []
    for item in sources:
        settings.append(item if isinstance(item, SourceSettings) else SourceSettings(**item))
    labels = [item.label for item in settings]
    if not settings or len(set(labels)) < len(labels):
        raise ValueError(
            f"data.source: expected one source or more, each with a name of its own, got {labels}. "
            "Set `name` where a path is there twice."
        )
    shares = [item.share for item in settings if item.share is not None]
    if shares and (len(shares) < len(settings) or abs(sum(shares) - 1) > 1e-6):
        raise ValueError(
            f"data.source: expected a share for every source, 1 in all, got {shares} for "
            f"{len(settings)} sources. Correct the shares, or leave all of them out."
        )
    return settings


def _take(source: Source, settings: SourceSettings) -> Source:
    """The rows of a source that are used."""
    assert source.labels_N is not None
    n_rows = len(source.labels_N)
    if settings.rows is None or settings.rows == n_rows:
        return source
    if settings.rows > n_rows:
        raise ValueError(
            f"{settings.label}: expected {settings.rows:,} rows, got {n_rows:,}. Lower `rows`."
        )
    drawn_N = np.random.default_rng(DEFAULT_SEED).permutation(n_rows)[: settings.rows]
    is_drawn_N = np.zeros(n_rows, dtype=bool)
    is_drawn_N[drawn_N] = True
    table = source.table.with_format("arrow")[:]
    drawn = stored_table(_chosen(table.to_batches(), is_drawn_N), table.schema)
    return make_source(source.name, [drawn], source.labels_N[is_drawn_N])


def _chosen(batches: Sequence[pa.RecordBatch], is_chosen_N: np.ndarray) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    start = 0
    for batch in batches:
        yield batch.filter(pa.array(is_chosen_N[start : start + len(batch)]))
        start += len(batch)


def _concatenate(settings: Sequence[SourceSettings], loaded: Sequence[Source]) -> Source:
    names = [item.label for item in settings]
    shares = [item.share for item in settings if item.share is not None]
    tables = [source.table.with_format("arrow")[:] for source in loaded]
    source_N = np.repeat(np.arange(len(loaded)), [table.num_rows for table in tables])
    labels = [source.labels_N for source in loaded if source.labels_N is not None]
    combined = make_source(" + ".join(names), tables, np.concatenate(labels))
    content = [combined.fingerprint, sha256_bytes(source_N.astype("<i8").tobytes()), shares]
    n_converted = sum(source.counts["converted_answers"] for source in loaded)
    return replace(
        combined,
        fingerprint=sha256_bytes(json.dumps(content).encode()),
        counts={**combined.counts, "converted_answers": n_converted},
        source_names=names,
        source_N=source_N,
        shares=shares or None,
    )
