from __future__ import annotations

from pathlib import Path

import numpy as np

from mv_lightning.hashing import digests, number_distinct, sha256_bytes, sha256_file

OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4


def test_both_give_the_standards_value(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == OF_ABC
    assert sha256_file(tmp_path / "file") == OF_ABC


def test_values_are_numbered_in_the_order_in_which_they_occur() -> None:
    values = [b"b", b"", b"a" * 1000, b"b", memoryview(b"xbx")[1:2], b"", b"a" * 999]
    numbers_N = number_distinct(digests(values))
    assert numbers_N.tolist() == [0, 1, 2, 0, 0, 1, 3] and numbers_N.dtype == np.int64
    assert number_distinct(digests([])).tolist() == []
