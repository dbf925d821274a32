"""Where rows come from: a file, a folder, a saved dataset, the practice generator or the Hub -> one checked table.

Whatever the origin, what leaves this file has the columns question, answer and solution as text, labels
that are booleans, and a fingerprint of the content. The checks run on Arrow columns, never row by row.
Everything that is wrong with a source is a `ValueError` that says what was got, what is needed and how to
mend it; row numbers in these messages count from 0 within the file they name.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.schema import DEFAULT_SEED, LABEL_COLUMN, TEXT_COLUMNS

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

KIND_COLUMN = "error"
"""Optional column: the kind of error in a wrong solution, kept so that accuracy can be read by kind."""
SYNTHETIC = "synthetic"
SYNTHETIC_ROWS = 6_000

_SPLIT_NAMES = ("train", "test", "val", "dev")
_SAVED_DATASET = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_BATCH_ROWS = 1 << 16
_BLOCK_BYTES = (
    16 << 20
)  # the readers refuse a row longer than one block; their own default is 1 MiB
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a surrogate without its other half
_EXACT_FLOAT = 2.0**53  # from here on a double no longer holds every integer

ColumnSelector = Callable[[Sequence[str]], list[str]]
"""The names of all columns of a file -> those to read; raises where one is missing."""
Rows = Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Any]]
"""Dicts (a list of them, a `datasets.Dataset`), or a table by column (a dict of lists, a DataFrame)."""


@dataclass(frozen=True)
class Source:
    """A checked table of rows, and what identifies it."""

    name: str
    """What the user wrote."""
    table: datasets.Dataset
    """N rows: question, answer, solution, and `error` where the source has it; all text, no nulls."""
    labels_N: np.ndarray | None
    """bool [N], True where the answer is correct; None when the rows were loaded without labels."""
    question_ids_N: np.ndarray
    """int64 [N], see `question_groups`."""
    fingerprint: str
    """Hash of the texts and labels: the same content has the same fingerprint in every file format."""
    counts: Mapping[str, int]
    """rows, distinct_questions, duplicates (rows whose three texts stand in an earlier row), converted_answers
    (numbers turned into text), empty_answers, empty_solutions."""


def load_source(source: str, split: str = "train", labelled: bool | None = True) -> Source:
    """Load and check the rows that `source` names.

    Args:
        source: One of
            - a file: `.parquet`, `.jsonl` or `.json` (one object per line), `.csv` (UTF-8, with a header), `.arrow`;
            - a folder: what `datasets.save_to_disk` wrote, or data files of one format. Files are chosen by
              the split in their names (`train.csv`, `data/test-00000-of-00002.parquet`); a folder without
              such names is all `train`;
            - `synthetic` or `synthetic:ROWS`: generated practice rows (a folder of that name: `./synthetic`);
            - anything else: a dataset's id on the Hugging Face Hub.
        split: Which split of a folder or Hub dataset. A file and a saved single dataset are one split
            themselves: it is not looked at there.
        labelled: Read and demand the label column. False: do not look at it. None: read it where there is one with
            anything in it; a column that holds labels in some rows only, or something else, is refused all the same.

    Returns:
        The rows in the order of the file (of the sorted file names, where there are several).

    Raises:
        ValueError: Nothing of that name, a file that cannot be read, or rows that break the schema.
    """
    import datasets
    import pyarrow as pa

    tables, labels, converted = [], [], 0
    for table, where in _tables(source, split, labelled):
        has_labels = LABEL_COLUMN in table.column_names and (
            labelled or not _empty(table[LABEL_COLUMN])
        )
        if has_labels:
            labels.append(_labels(table[LABEL_COLUMN], where))
        texts, more = _texts(table, where, labels[-1] if has_labels else None)
        tables.append(texts)
        converted += more
    if labels and len(labels) < len(tables):
        raise ValueError(
            f"{source}: {len(labels)} of {len(tables)} files have labels in `{LABEL_COLUMN}`. Needed are labels in all "
            "files or in none: add them, or rename the column."
        )
    table = pa.concat_tables(tables, promote_options="default")
    if table.num_rows == 0:
        raise ValueError(
            f"{source}: no rows. Needed is at least one row under the header or in the file."
        )
    if KIND_COLUMN in table.column_names:
        kinds = table[KIND_COLUMN].fill_null("")
        table = table.set_column(table.column_names.index(KIND_COLUMN), KIND_COLUMN, kinds)
    labels_N = np.concatenate(labels) if labels else None
    question_ids_N = _groups(table["question"])
    fingerprint = _fingerprint(table, labels_N)
    pa.default_memory_pool().release_unused()  # what reading and checking took: up to a tenth of the table
    return Source(
        name=source,
        table=datasets.Dataset(table, fingerprint=fingerprint),
        labels_N=labels_N,
        question_ids_N=question_ids_N,
        fingerprint=fingerprint,
        counts={
            "rows": table.num_rows,
            "distinct_questions": int(question_ids_N.max()) + 1,
            "duplicates": _duplicates(table, question_ids_N),
            "converted_answers": converted,
            "empty_answers": int(np.count_nonzero(_blank(table["answer"]))),
            "empty_solutions": int(np.count_nonzero(_blank(table["solution"]))),
        },
    )


def text_columns(rows: Rows) -> dict[str, Sequence[str]]:
    """Return the texts of rows that a program holds, checked as those of a source are.

    Args:
        rows: N rows. Other columns than the three texts are left alone.

    Returns:
        `question`, `answer` and `solution`, N texts each.

    Raises:
        ValueError: A column is missing, or rows break the schema.
    """
    import pyarrow as pa

    where = "the rows"
    if hasattr(rows, "keys"):
        by_column: Any = rows
        _pick(list(by_column.keys()), where, labelled=False)
        columns = {name: list(by_column[name]) for name in TEXT_COLUMNS}
    else:
        records: list[Any] = list(rows)
        for number, record in enumerate(records):
            _pick(list(record), f"{where}: number {number}", labelled=False)
        columns = {name: [record[name] for record in records] for name in TEXT_COLUMNS}
    try:
        table = pa.table(columns)
    except (pa.ArrowException, ValueError, TypeError) as reason:
        raise ValueError(
            f"{where}: {reason}. Needed are texts of the same type and number in each column."
        ) from reason
    texts, _ = _texts(table, where, None)
    return {name: texts[name].to_pylist() for name in TEXT_COLUMNS}


def question_groups(table: datasets.Dataset) -> np.ndarray:
    """Number the distinct questions, so that a split can keep the rows of one question together.

    Two questions are the same when they are equal after lowering the case and writing every run of
    whitespace as one space.

    Args:
        table: N rows with the column `question`.

    Returns:
        int64 [N], ids from 0 without gaps; equal where the questions are the same.
    """
    return _groups(table.with_format("arrow")[:]["question"])


# ---- from a name to tables -------------------------------------------------------------------------------


def _tables(source: str, split: str, labelled: bool | None) -> Iterator[tuple[pa.Table, str]]:
    """Every table that `source` consists of, holding the wanted columns only, and its name for messages."""
    if not source.strip():
        raise ValueError(
            f"The name of the source is empty. Needed is a file, a folder, `{SYNTHETIC}:ROWS` or the id of a Hub dataset."
        )
    kind, _, rows = source.partition(":")
    path = Path(source).expanduser()
    if kind == SYNTHETIC:
        table = _sample(source, rows, split)
    elif path.is_dir() and not any(
        (path / name).exists() for name in ("dataset_dict.json", "state.json")
    ):
        for file in _split_files(path, split):
            yield _read(file, labelled), str(file)
        return
    elif path.is_dir():
        table = _saved(path, split)
    elif path.exists():
        yield _read(path, labelled), source
        return
    elif (
        source.startswith((".", "/", "~"))
        or source.count("/") > 1
        or path.suffix.lower() in _READERS
    ):
        raise ValueError(
            f"{source}: no such file or folder (looked for {path.absolute()}). Correct the path."
        )
    else:
        table = _from_hub(source, split)
    yield table.select(_pick(table.column_names, source, labelled)), source


def _sample(source: str, rows: str, split: str) -> pa.Table:
    from mv_lightning.data.synthetic import synthetic_table

    if ":" in source and not (rows.isdecimal() and int(rows) > 0):
        raise ValueError(
            f"{source}: {rows!r} is not a number of rows. Write for example `{SYNTHETIC}:{SYNTHETIC_ROWS}`."
        )
    return synthetic_table(split, int(rows or SYNTHETIC_ROWS), DEFAULT_SEED)


def _saved(folder: Path, split: str) -> pa.Table:
    import datasets
    import pyarrow as pa

    try:
        saved = datasets.load_from_disk(str(folder))
    except (pa.ArrowException, OSError, ValueError, LookupError) as reason:
        raise ValueError(
            f"{folder}: the saved dataset cannot be read: {reason}. Save or copy it again."
        ) from reason
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(
                f"{folder}: no split {split!r} in the saved dataset. It has {sorted(saved)}: name one."
            )
        saved = saved[split]
    return saved.with_format("arrow")[:]


def _from_hub(source: str, split: str) -> pa.Table:
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split)
    except Exception as reason:  # gated, offline, unknown and malformed ids share no class below it
        raise ValueError(
            f"{source}: no file or folder of that name is here, and the Hub did not give a dataset {source!r} with a "
            f"split {split!r}: {reason}. Check the id and the split; without internet run `hf download {source} "
            f"--repo-type dataset --local-dir FOLDER` on a machine that has it, and name that folder here."
        ) from reason
    return rows.with_format("arrow")[:]


def _split_files(folder: Path, split: str) -> list[Path]:
    """The data files of `split` in `folder`, sorted by name; all of one format."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _READERS
        and path.name not in _SAVED_DATASET
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }

    def named(split: str) -> list[Path]:
        start = re.compile(rf"(?<![a-z]){re.escape(split.lower())}")
        return [path for name, path in files.items() if start.search(name.lower())]

    if not files:
        raise ValueError(
            f"{folder}: no data file in this folder. Needed are {', '.join(_READERS)} files."
        )
    chosen = named(split)
    if not chosen and split == "train" and not any(map(named, _SPLIT_NAMES)):
        chosen = list(files.values())
    if not chosen:
        raise ValueError(
            f"{folder}: no file is named after the split {split!r}; the folder holds {_few(list(files))}. "
            f"Name the file itself as the source, or rename it to start with {split!r}."
        )
    if len(suffixes := {path.suffix.lower() for path in chosen}) > 1:
        raise ValueError(
            f"{folder}: files of {len(suffixes)} formats for the split {split!r}: "
            f"{_few([path.name for path in chosen])}. Needed is one format: name one file, or move the others away."
        )
    return chosen


# ---- from files to tables --------------------------------------------------------------------------------


def _read(path: Path, labelled: bool | None) -> pa.Table:
    import pyarrow as pa

    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'}. Use {', '.join(_READERS)}."
        )
    try:
        return reader(path, partial(_pick, where=str(path), labelled=labelled))
    except (pa.ArrowException, OSError) as reason:
        raise ValueError(
            f"{path}: cannot be read as {path.suffix[1:]}: {reason}. The file is damaged, cut short or of another "
            f"format or encoding (text must be UTF-8): write or download it again."
        ) from reason


def _pick(names: Sequence[str], where: str, labelled: bool | None) -> list[str]:
    """The columns to read, out of the `names` that a file has."""
    with_label = labelled or (labelled is None and LABEL_COLUMN in names)
    needed = (*TEXT_COLUMNS, LABEL_COLUMN) if with_label else TEXT_COLUMNS
    if missing := [name for name in needed if name not in names]:
        unlabelled = (
            " Rows without labels can only be predicted." if missing == [LABEL_COLUMN] else ""
        )
        raise ValueError(
            f"{where}: no column {', '.join(missing)}. Needed are {', '.join(needed)}; the columns are "
            f"{', '.join(names) or '(none)'}. Rename or add the columns.{unlabelled}"
        )
    if repeated := [name for name in needed if list(names).count(name) > 1]:
        raise ValueError(
            f"{where}: column {', '.join(repeated)} stands there more than once. Keep one of each."
        )
    return [*needed, KIND_COLUMN] if list(names).count(KIND_COLUMN) == 1 else list(needed)


def _read_parquet(path: Path, pick: ColumnSelector) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        names = pick(file.schema_arrow.names)
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        # All at once takes a quarter of the table's bytes more while it is read.
        return pa.Table.from_batches(file.iter_batches(_BATCH_ROWS, columns=names), schema)


def _read_arrow(path: Path, pick: ColumnSelector) -> pa.Table:
    import pyarrow as pa

    file = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(file).read_all()
    except pa.ArrowInvalid:  # not the file layout: `datasets` writes streams
        table = pa.ipc.open_stream(file).read_all()
    return table.select(pick(table.column_names))


def _read_csv(path: Path, pick: ColumnSelector) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    _refuse_utf16(path)
    _refuse_stray_quotes(path)
    layout = {
        "read_options": csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": csv.ParseOptions(newlines_in_values=True),
    }
    # The reader is not kept: it reads ahead, and would hold the whole file beside the table.
    wanted = pick(csv.open_csv(path, **layout).schema.names)
    as_text = csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
    )
    return csv.read_csv(path, convert_options=as_text, **layout)


def _refuse_stray_quotes(path: Path) -> None:
    """Refuse quotation marks that do not stand where a field begins or ends.

    The reader would take the text up to the next mark, often whole rows, for one field, without a word.
    """
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    starts = range(0, len(content), _BLOCK_BYTES)
    at_Q = np.concatenate(
        [
            np.flatnonzero(content[start : start + _BLOCK_BYTES] == ord('"')) + start
            for start in starts
        ]
        or [np.empty(0, np.int64)]
    )
    first = len(codecs.BOM_UTF8) if content[:3].tobytes() == codecs.BOM_UTF8 else 0
    before_Q, after_Q = (content[at_Q.clip(1) - 1], content[(at_Q + 1).clip(max=len(content) - 1)])
    doubled_Q = np.diff(at_Q) == 1
    edges = np.frombuffer(b",\r\n", np.uint8)
    opens_Q = np.isin(before_Q, edges) | (at_Q == first) | np.append(False, doubled_Q)
    closes_Q = np.isin(after_Q, edges) | (at_Q == len(content) - 1) | np.append(doubled_Q, False)
    is_opening_Q = np.arange(len(at_Q)) % 2 == 0
    stray = np.flatnonzero(~np.where(is_opening_Q, opens_Q, closes_Q))
    if not len(stray) and len(at_Q) % 2 == 0:
        return
    mark = int(stray[0]) if len(stray) else len(at_Q) - 1
    line, line_before = (
        int((content[: at_Q[max(i, 0)]] == ord("\n")).sum()) + 1 for i in (mark, mark - 1)
    )
    what = (
        f"the quotation mark in line {line} begins a field that is never closed"
        if not len(stray)
        else f"a quotation mark in line {line} stands within a field that does not begin with one"
        if is_opening_Q[mark]
        else f"a quotation mark in line {line} ends a field, but no comma follows; or the field that begins in line "
        f"{line_before} is never closed"
    )
    raise ValueError(
        f"{path}: {what}. Put fields that hold commas, quotes or line breaks in quotes, and double the quotes within "
        '("").'
    )


def _refuse_utf16(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or 0 in start:
            raise ValueError(
                f"{path}: the file is UTF-16. Needed is UTF-8: `iconv -f UTF-16 -t UTF-8 OLD > NEW` converts it."
            )


def _read_jsonl(path: Path, pick: ColumnSelector) -> pa.Table:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    _refuse_utf16(path)
    first = next(_objects(path), None)
    if first is None:
        raise ValueError(f"{path}: no rows. Needed is one JSON object per line.")
    wanted = pick(list(first[1]))
    # Types are stated, not inferred: Arrow would read "2024-01-31" as a date.
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types.get(type(first[1][name]), pa.string())) for name in wanted])
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = arrow_json.read_json(path, arrow_json.ReadOptions(block_size=_BLOCK_BYTES), options)
        table.validate(full=True)
        return table
    except (pa.ArrowException, UnicodeDecodeError):
        return _read_jsonl_by_line(path, wanted)


def _read_jsonl_by_line(path: Path, wanted: list[str]) -> pa.Table:
    """The slow way, for what Arrow's reader refused: it names the bad line, or copes (whole numbers before 0.5)."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    kinds: dict[str, str] = {}
    for number, row in _objects(path):
        for name, values in columns.items():
            value = row.get(name)
            values.append(value)
            if isinstance(value, str) and _HALF_CHARACTER.search(value):
                raise ValueError(
                    f"{path}: line {number}: `{name}` holds half a character (a lone \\ud... escape). "
                    "Correct this line."
                )
            kind = "number" if type(value) in (int, float) else type(value).__name__
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise ValueError(
                    f"{path}: line {number}: `{name}` is of type {kind}, in earlier lines of type {kinds[name]}. "
                    f"Write it the same way in every line."
                )
    try:
        return pa.table(columns)
    except OverflowError as reason:
        raise ValueError(
            f"{path}: a value cannot be kept exactly: {reason}. Write numbers of more than 15 digits as strings."
        ) from reason


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers from 1; blank lines are passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
                problem = "" if isinstance(row, dict) else f"it holds a {type(row).__name__}"
            except ValueError as reason:
                problem = str(reason)
            if problem:
                raise ValueError(
                    f"{path}: line {number} is not a JSON object: {problem}; it begins {line[:60]!r}. Needed is one "
                    f"UTF-8 object per line; one large array becomes that with `jq -c '.[]' old.json > new.jsonl`."
                )
            yield number, row


_READERS: dict[str, Callable[[Path, ColumnSelector], pa.Table]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".arrow": _read_arrow,
}


# ---- from tables to text and labels ----------------------------------------------------------------------


def _texts(table: pa.Table, where: str, labels_N: np.ndarray | None) -> tuple[pa.Table, int]:
    """The text columns as `pa.string()` without nulls, and how many answers were numbers.

    A solution may be empty. So may an answer, since models run out of tokens before they give one; only
    a row that calls such an answer correct is refused.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns, converted = {}, 0
    for name in table.column_names:
        column = _decoded(table[name])
        if name == LABEL_COLUMN or (name == KIND_COLUMN and not _is_text(column.type)):
            continue
        if name in ("question", "answer"):
            _refuse(
                pc.is_null(column, nan_is_null=True),
                where,
                f"`{name}` is null",
                "Fill these rows or drop them",
            )
        if _is_text(column.type):
            column = column.cast(pa.string())
        elif name == "answer" and (numbers := _numbers_as_text(column, where)) is not None:
            column, converted = numbers, len(column)
        else:
            raise ValueError(
                f"{where}: `{name}` holds {column.type}. Needed is text: convert the column to strings."
            )
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as reason:
            raise ValueError(
                f"{where}: `{name}`: {reason}. Write the file again, its text as UTF-8."
            ) from reason
        if name == "question":
            _refuse(
                _blank(column),
                where,
                "`question` is empty or only whitespace",
                "Fill these rows or drop them",
            )
        if name == "answer" and labels_N is not None:
            what = f"`answer` is empty or only whitespace, yet `{LABEL_COLUMN}` is true,"
            _refuse(_blank(column) & labels_N, where, what, "Fill these rows or drop them")
        columns[name] = column.fill_null("") if name == "solution" else column
    return pa.table(columns), converted


def _numbers_as_text(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray | None:
    """A column of numbers as people write them (4, not 4.0); None where it does not hold numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal(column.type):
        return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
    if not (pa.types.is_float32(column.type) or pa.types.is_float64(column.type)):
        return None
    vague = pc.greater_equal(pc.abs(column), pa.scalar(_EXACT_FLOAT, column.type))
    _refuse(
        vague,
        where,
        "`answer` is a float too large to be exact",
        "Write these answers as strings",
        column,
    )
    whole = column.cast(pa.int64(), safe=False).cast(pa.string())
    return pc.if_else(pc.equal(pc.floor(column), column), whole, column.cast(pa.string()))


def _labels(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """Labels in any usual spelling -> bool [N]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mend = (
        "Needed is true/false, yes/no or 1/0 in every row; rows without a label can only be predicted, from a file "
        "without this column or with nothing in it"
    )
    column = _decoded(column)
    _refuse(pc.is_null(column, nan_is_null=True), where, f"`{LABEL_COLUMN}` is null", mend)
    if pa.types.is_boolean(column.type):
        true, known = column, None
    elif _is_text(column.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        true = pc.is_in(text, pa.array(["true", "yes", "1", "1.0"]))
        known = pc.or_(true, pc.is_in(text, pa.array(["false", "no", "0", "0.0"])))
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        true = pc.equal(column, pa.scalar(1, column.type))
        known = pc.or_(true, pc.equal(column, pa.scalar(0, column.type)))
    else:
        raise ValueError(f"{where}: `{LABEL_COLUMN}` holds {column.type}. {mend}.")
    if known is not None:
        _refuse(pc.invert(known), where, f"`{LABEL_COLUMN}` is not a label", mend, column)
    return np.asarray(true.to_numpy(), dtype=bool)


def _empty(column: pa.ChunkedArray) -> bool:
    """Whether a column of labels holds none: nulls, or the empty fields of a CSV."""
    import pyarrow as pa

    column = _decoded(column)
    if _is_text(column.type):
        return bool(_blank(column.cast(pa.string()).fill_null("")).all())
    return column.null_count == len(column)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    """Text of any layout; a column of nothing but nulls counts, the null check has more to say about it."""
    from pyarrow import types

    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(is_kind(kind) for is_kind in texts)


def _blank(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column)))


def _refuse(
    bad: pa.ChunkedArray | np.ndarray,
    where: str,
    what: str,
    mend: str,
    values: pa.ChunkedArray | None = None,
) -> None:
    """Raise when any row of the boolean column `bad` is True, with the first row numbers and values."""
    rows = np.flatnonzero(np.asarray(bad))
    if len(rows):
        got = "" if values is None else f" ({_few([values[int(row)].as_py() for row in rows[:6]])})"
        raise ValueError(
            f"{where}: {what}{got} in {len(rows):,} rows: {_few(rows.tolist())}. {mend}."
        )


def _few(things: Sequence[object]) -> str:
    return ", ".join(f"{thing!r}" for thing in things[:5]) + (", ..." if len(things) > 5 else "")


# ---- what the content is ---------------------------------------------------------------------------------


def _groups(questions: pa.ChunkedArray) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = questions.dictionary_encode().combine_chunks()
    distinct = encoded.dictionary
    # Only distinct questions are rewritten, a slice at a time: splitting needs several times their bytes.
    rewritten = pa.chunked_array(
        [
            pc.binary_join(
                pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(part))), " "
            )
            for part in (
                distinct.slice(start, 1 << 16) for start in range(0, len(distinct), 1 << 16)
            )
        ],
        type=pa.string(),
    )
    group_of = rewritten.dictionary_encode().combine_chunks().indices.to_numpy().astype(np.int64)
    return np.asarray(group_of[encoded.indices.to_numpy()])


def _duplicates(table: pa.Table, question_ids_N: np.ndarray) -> int:
    """Rows whose three texts stand in an earlier row.

    Only rows that share question, answer and length of solution with another are compared: grouping all
    rows by their texts would copy the whole table.
    """
    import pyarrow as pa

    answers_N = table["answer"].dictionary_encode().combine_chunks().indices.to_numpy()
    key_N = question_ids_N.astype(np.uint64)
    for part_N in (_byte_lengths(table["question"]), answers_N, _byte_lengths(table["solution"])):
        # A collision of this hash costs time, not exactness.
        key_N = key_N * np.uint64(0x9E3779B97F4A7C15) + part_N.astype(np.uint64)
    _, inverse, repeats = np.unique(key_N, return_inverse=True, return_counts=True)
    alike = table.select(TEXT_COLUMNS).filter(pa.array(repeats[inverse] > 1))
    return int(alike.num_rows - alike.group_by(list(TEXT_COLUMNS)).aggregate([]).num_rows)


def _byte_lengths(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.binary_length(column).to_numpy())


def _fingerprint(table: pa.Table, labels_N: np.ndarray | None) -> str:
    """SHA-256 over names, value bytes and lengths: Arrow's buffers, but none of its chunk boundaries."""
    digest = hashlib.sha256(f"{table.num_rows} {labels_N is not None}".encode())
    for name in table.column_names:
        digest.update(name.encode())
        for chunk in table[name].chunks:
            _, offsets, values = chunk.buffers()
            bounds = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            if values is not None and len(bounds):
                digest.update(memoryview(values)[bounds[0] : bounds[-1]])
        digest.update(_byte_lengths(table[name]).astype("<i4").tobytes())
    if labels_N is not None:
        digest.update(np.packbits(labels_N).tobytes())
    return digest.hexdigest()
