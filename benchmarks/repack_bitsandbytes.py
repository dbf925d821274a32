"""Reduce a wheel of bitsandbytes to the libraries of one version of CUDA and of the CPU.

    python -m benchmarks.repack_bitsandbytes WHEEL [--cuda 130]

The wheel has a library for every version of CUDA, ROCm and XPU, 43 MB in all. The others are
removed, the list of files is corrected, and the wheel is replaced by the smaller one.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import zipfile
from pathlib import Path

from mv_lightning.atomic import atomic_file

CUDA = "130"
"""CUDA 13.0, as PyTorch 2.11 is built for."""
_LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so")


def repack(wheel: Path, cuda: str = CUDA) -> None:
    """Replace a wheel by one with fewer libraries; the same wheel always gives the same file.

    Args:
        wheel: A wheel of bitsandbytes for Linux.
        cuda: The version of CUDA to keep, without the point.

    Raises:
        ValueError: The wheel has no library for this version.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
        libraries = {member.filename: _LIBRARY.fullmatch(member.filename) for member in members}
        versions = {name: match[1] for name, match in libraries.items() if match}
        if f"cuda{cuda}" not in versions.values():
            raise ValueError(
                f"expected a library for CUDA {cuda} in {wheel.name}, got "
                f"{', '.join(sorted(versions.values())) or 'none'}. Choose one of them with --cuda"
            )
        kept = {f"cuda{cuda}", "cpu"}
        removed = {name for name, version in versions.items() if version not in kept}
        with (
            atomic_file(wheel) as tmp_path,
            zipfile.ZipFile(tmp_path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as smaller,
        ):
            for member in members:
                if member.filename in removed:
                    continue
                content = archive.read(member)
                if member.filename.endswith(".dist-info/RECORD"):
                    content = _without(content, removed)
                # Its time, permissions and compression are those in the old wheel.
                smaller.writestr(member, content)


def _without(record: bytes, removed: set[str]) -> bytes:
    """Return the list of files (name, hash, size) without some of them."""
    rows = csv.reader(io.StringIO(record.decode("utf-8")))
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(row for row in rows if row[0] not in removed)
    return lines.getvalue().encode("utf-8")


def main() -> None:
    """Repack a wheel and print its sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cuda", default=CUDA, help=f"version without the point, default {CUDA}")
    options = parser.parse_args()
    before = options.wheel.stat().st_size
    try:
        repack(options.wheel, options.cuda)
    except ValueError as error:
        sys.exit(f"error: {error}")
    after = options.wheel.stat().st_size
    print(f"{options.wheel.name}: {before / 1e6:.1f} MB, reduced to {after / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
