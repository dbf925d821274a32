"""The carried wheel keeps what it needs and is still a wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from benchmarks.repack_bitsandbytes import repack

RECORD = "bitsandbytes-1.0.dist-info/RECORD"
LIBRARIES = ("cpu", "cuda128", "cuda130", "rocm70", "xpu2025")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    files = {f"bitsandbytes/libbitsandbytes_{name}.so": b"\x7fELF" * 100 for name in LIBRARIES}
    files["bitsandbytes/nn/modules.py"] = b"x = 1\n"
    lines = [f"{name},sha256=abc,{len(content)}\n" for name, content in files.items()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(RECORD, "".join([*lines, f"{RECORD},,\n"]))
    return path


def test_other_libraries_are_removed_and_the_record_agrees(wheel: Path) -> None:
    repack(wheel, "130")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        recorded = [line.split(",")[0] for line in archive.read(RECORD).decode().splitlines()]
        assert archive.read("bitsandbytes/nn/modules.py") == b"x = 1\n"
    assert (
        names
        == recorded
        == [
            "bitsandbytes/libbitsandbytes_cpu.so",
            "bitsandbytes/libbitsandbytes_cuda130.so",
            "bitsandbytes/nn/modules.py",
            RECORD,
        ]
    )
    before = wheel.read_bytes()
    repack(wheel, "130")
    assert wheel.read_bytes() == before


def test_a_version_that_is_not_there_is_refused(wheel: Path) -> None:
    before = wheel.read_bytes()
    with pytest.raises(ValueError, match="expected a library for CUDA 140"):
        repack(wheel, "140")
    assert wheel.read_bytes() == before
