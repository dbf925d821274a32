"""Words are counted as Python splits them, whatever the chunks of the column."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mv_lightning.reporting import text_lengths
from mv_lightning.reporting.text_lengths import count_words


@given(texts=st.lists(st.text(st.sampled_from("ab1 \n\té漢")), max_size=12), cut=st.integers(0, 12))
def test_words_are_counted_as_python_splits_them(texts: list[str], cut: int) -> None:
    column = pa.chunked_array(
        [pa.array(texts[:cut], pa.string()), pa.array(texts[cut:], pa.string())]
    )
    expected = [len(text.split()) for text in texts]
    assert count_words(column).tolist() == expected
    assert count_words(column.slice(1)).tolist() == expected[1:]


def test_words_do_not_depend_on_how_many_rows_are_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_lengths, "_COUNTED", 2)
    assert count_words(pa.chunked_array([["a b", "", "c", " d e f", "g"]])).tolist() == [
        2,
        0,
        1,
        3,
        1,
    ]
