"""Every format is read whole, or refused with the place of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mv_lightning.data.sources import load_source
from tests.data.files import COLUMNS, ROWS, WRITERS, changed, load, only, write_csv, write_jsonl

ABSENT = object()


def test_odd_values_in_other_columns_do_no_harm(tmp_path: Path) -> None:
    rows = [
        dict(row, note=note) for row, note in zip(ROWS, [1, "x", [2], None, {"y": 1}], strict=True)
    ]
    assert load(tmp_path / "rows.jsonl", rows).counts["rows"] == 5


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.CSV"])
def test_rows_of_megabytes_are_read_across_blocks(name: str, tmp_path: Path) -> None:
    rows = [dict(ROWS[0], solution=f"line {number},\n" * 300_000) for number in range(7)]
    assert load(tmp_path / name, rows).table["solution"][:] == [row["solution"] for row in rows]


@pytest.mark.parametrize("keep", [0, 3, 200, -4])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "stream.arrow"])
def test_files_cut_short_are_refused(name: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    path.write_bytes(path.read_bytes()[: keep if name != "stream.arrow" or keep >= 0 else -40])
    with pytest.raises(ValueError, match=r"rows|stream") as caught:
        load_source(str(path))
    assert "damaged, cut short" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('q,1,"never closed,true\nq,2,s,true\n', "line 2 begins a field that is never closed"),
        ("q,1,s\n", "cannot be read as csv.*Expected 4 columns, got 3"),
        ("q,1,a,b,true\n", "cannot be read as csv.*Expected 4 columns, got 5"),
        ("qé,1,s,true\n", "cannot be read as csv.*UTF8.*must be UTF-8"),
        (
            'q,1,"never closed,true\nq,2,"s,true\n',
            "line 3 ends a field, but no comma.*begins in line 2 is never closed",
        ),
        ('q,1,5" by 6",true\n', "line 2 is inside a field that does not begin with one"),
        ('q,1,"s" ,true\n', "line 2 ends a field, but no comma follows"),
        ('q,1,"a ""b"",true\n', "line 2 begins a field that is never closed"),
    ],
)
def test_broken_csv_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes((",".join(COLUMNS) + "\n" + text).encode("latin-1"))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_source(str(path))


def test_an_unclosed_quote_in_the_last_column_loses_no_rows_silently(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,is_correct,answer,solution\nq,true,1,"never closed\nq,true,2,s\n')
    with pytest.raises(ValueError, match="never closed"):
        load_source(str(path))


@pytest.mark.parametrize("name", ["rows.CSV", "rows.jsonl"])
def test_utf16_is_refused_and_a_byte_order_mark_of_utf8_is_not(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, ROWS)
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text, encoding="utf-8-sig", newline="")
    assert load_source(str(tmp_path / name)).counts["rows"] == 5
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / name).write_text(text, encoding=encoding)
        with pytest.raises(ValueError, match=r"UTF-16.*iconv"):
            load_source(str(tmp_path / name))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(*[st.text('ab,"\r\n é', max_size=5)] * 3), min_size=1, max_size=6))
def test_whatever_csv_writes_is_read_back(
    rows: list[tuple[str, str, str]], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.CSV"
    expected = [{"question": f"?{q}", "answer": a, "solution": s} for q, a, s in rows]
    write_csv(path, expected)
    assert load_source(str(path), labelled=False).table.to_list() == expected


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.CSV", "rows.arrow"])
def test_control_characters_and_templates_are_kept(name: str, tmp_path: Path) -> None:
    text = (
        "".join(map(chr, range(32)))
        + "\x7f\x85\u2028\ufeff\U0010ffff {} {{ }} {question} %s <|eot|>"
    )
    assert load(tmp_path / name, changed(0, question=text)).table["question"][0] == text


@pytest.mark.parametrize("text", ["", "a;b;c\n1;2;3\n"])
def test_csv_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read as csv|no column question.*got a;b;c"):
        load_source(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": ', "line 4 is not a JSON object: Expecting value"),
        (b"[1]", "line 4 is not a JSON object: it holds a list"),
        (
            json.dumps(dict(ROWS[0], question="é"), ensure_ascii=False).encode("latin-1"),
            "line 4 is not a JSON object: 'utf-8' codec",
        ),
        (
            json.dumps(dict(ROWS[0], question=7)).encode(),
            "line 4: `question` is of type number, in earlier lines of type str",
        ),
        (
            json.dumps(dict(ROWS[0], answer=True)).encode(),
            "line 4: `answer` is of type bool, in earlier lines of type str",
        ),
        (
            json.dumps(dict(ROWS[0], is_correct="yes")).encode(),
            "line 4: `is_correct` is of type str",
        ),
        (
            json.dumps(dict(ROWS[0], solution="\ud83d")).encode(),
            r"line 4: `solution` holds half a character",
        ),
        (json.dumps({"question": "q"}).encode(), "`is_correct` is null in 1 rows: 2"),
    ],
)
def test_a_bad_line_of_jsonl_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = [json.dumps(row).encode() for row in ROWS]
    path.write_bytes(b"\n".join([good[0], b"", good[1], line, good[2]]))
    with pytest.raises(ValueError, match=message):
        load_source(str(path))


def test_a_bad_first_line_and_a_json_array_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=2))
    with pytest.raises(ValueError, match=r"line 1 is not a JSON object.*jq -c '\.\[\]'"):
        load_source(str(path))


def test_numbers_beyond_64_bits_in_jsonl_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be kept exactly.*as strings"):
        load(tmp_path / "rows.jsonl", [dict(ROWS[0], answer=answer) for answer in (1, 2**70)])


@pytest.mark.parametrize(
    "answers", [[4, 5, 6, 7, 8], [4, 5, 6.5, 7, 8], [4.0, 5, 6.5, 7, 8]], ids=str
)
def test_numbers_in_jsonl_become_text(answers: list[float], tmp_path: Path) -> None:
    rows = [dict(row, answer=answer) for row, answer in zip(ROWS, answers, strict=True)]
    assert load(tmp_path / "rows.jsonl", rows).table["answer"][:] == [
        f"{answer:g}" for answer in answers
    ]


@pytest.mark.parametrize(
    ("first", "later", "texts"),
    [
        ({"solution": ABSENT}, {}, {"solution": ""}),
        ({"solution": None}, {}, {"solution": ""}),
        ({"answer": 7}, {"answer": "x"}, {"answer": "7"}),
        ({"answer": 7}, {"answer": 0.5}, {"answer": "7"}),
        ({"answer": 7.0}, {"answer": "0.5"}, {"answer": "7"}),
        ({"answer": "x"}, {"answer": 7}, {"answer": "x"}),
        ({"error": ABSENT}, {"error": "slip"}, {"error": ""}),
        ({"error": None}, {"error": "slip"}, {"error": ""}),
    ],
)
def test_the_first_row_of_jsonl_does_not_decide(
    first: dict[str, Any], later: dict[str, Any], texts: dict[str, str], tmp_path: Path
) -> None:
    """A key that it lacks, a null or a number there: later rows count as much, however late."""
    start = {key: value for key, value in (ROWS[0] | first).items() if value is not ABSENT}
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [start, *[dict(row, **later) for row in ROWS[1:] * 2_000]])
    source = load_source(str(path))
    assert source.counts["rows"] == 8_001
    table = source.table
    assert {name: table[0][name] for name in texts} == texts
    name = next(iter({**later, **texts}))
    assert table[1][name] == str({**ROWS[1], **later}[name])
    assert table[0]["question"] == ROWS[0]["question"] and len(source.ids) == 8_001


def test_a_key_that_no_row_has_is_missing(tmp_path: Path) -> None:
    rows = only(ROWS, "question", "answer", "is_correct")
    with pytest.raises(ValueError, match="no column solution"):
        load(tmp_path / "rows.jsonl", rows)


def test_the_type_of_other_columns_of_jsonl_does_not_matter(tmp_path: Path) -> None:
    ids = [1, "x", None, [2], 2**70]
    rows = [dict(row, id=value) for row, value in zip(ROWS, ids, strict=True)]
    assert load(tmp_path / "rows.jsonl", rows).counts["rows"] == 5
