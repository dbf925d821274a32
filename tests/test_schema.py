from __future__ import annotations

import numpy as np

from mv_lightning.schema import EncodedRows, Packing


def encoded(rows: list[list[int]], question_prefix: list[int]) -> EncodedRows:
    lengths = [len(row) for row in rows]
    return EncodedRows(
        ids_T=np.concatenate(rows).astype(np.int32),
        starts_N=np.cumsum([0, *lengths]),
        labels_N=np.ones(len(rows), dtype=np.int8),
        rows_N=np.arange(len(rows)),
        truncated_N=np.zeros(len(rows), dtype=np.int32),
        question_prefix_N=np.array(question_prefix, dtype=np.int32),
        prefix_ids=(7, 8),
    )


def test_rows_with_the_same_question_prefix_share_a_group() -> None:
    rows = encoded([[1, 2, 3], [5, 2], [1, 2, 9], [1, 2]], [2, 1, 2, 2])
    assert rows.prefix_groups_N.tolist() == [0, 1, 0, 0]
    assert rows.row(2).tolist() == [1, 2, 9] and rows.lengths_N.tolist() == [3, 2, 3, 2]


def test_a_row_without_a_question_prefix_is_a_group_of_its_own() -> None:
    rows = encoded([[1, 2], [1, 2]], [0, 0])
    assert rows.prefix_groups_N.tolist() == [0, 1]


def test_a_packing_knows_the_path_and_the_end_of_each_span() -> None:
    # Instruction, question, two solutions of it, then a row that shares only the instruction.
    packing = Packing(lengths=(4, 3, 5, 6, 2), parents=(-1, 0, 1, 1, 0))
    assert packing.paths == ((0,), (0, 1), (0, 1, 2), (0, 1, 3), (0, 4))
    assert packing.ends == (4, 7, 12, 13, 6)
    assert packing.leaves == (2, 3, 4)
    assert packing.rows == ((0, 1, 2), (0, 1, 3), (0, 4)) and packing.row_tokens == (12, 13, 6)


def test_rows_of_one_span_each_need_not_be_leaves() -> None:
    packing = Packing(lengths=(4, 2, 5), parents=(-1, 0, 1), row_spans=(0, 2))
    assert packing.rows == ((0,), (2,)) and packing.row_tokens == (4, 5)
    assert packing.ends == (4, 6, 11)
