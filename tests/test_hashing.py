from __future__ import annotations

from pathlib import Path

from mv_lightning.hashing import sha256_bytes, sha256_file

OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4


def test_both_give_the_standards_value(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == OF_ABC
    assert sha256_file(tmp_path / "file") == OF_ABC
