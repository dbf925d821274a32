"""Where a base model is loaded from: a folder, a GGUF file, the Hub, or the bundled package."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from mv_lightning.hashing import sha256_file
from mv_lightning.model.bundled import BUNDLED, bundled_folder
from mv_lightning.model.gguf import is_gguf, unpack_gguf
from mv_lightning.model.model_cache import cache_folder


@dataclass(frozen=True)
class BaseLocation:
    """What transformers loads from."""

    source: str
    """A folder or a Hub id."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""


def absolute_name(name: str) -> str:
    """Return `model.base.name` such that it means the same from every working directory.

    Args:
        name: As the user wrote it; a path may be relative, begin with `~` or contain links.
    """
    path = Path(name).expanduser()
    return str(path.resolve()) if name != BUNDLED and path.exists() else name


def locate(name: str) -> BaseLocation:
    """Return where transformers loads a base model from; a GGUF file is unpacked on first use.

    Args:
        name: `model.base.name`: a folder, a `.gguf` file, `owner/name` or `owner/name@revision` on
            the Hub, or `bundled`.

    Raises:
        ValueError: There is no such folder or file, the name has no valid form, or the file cannot
            be unpacked.
    """
    if name == BUNDLED:
        return BaseLocation(str(bundled_folder()))
    path = Path(name).expanduser()
    if path.is_dir():
        return BaseLocation(str(path))
    if path.is_file():
        return BaseLocation(str(_gguf_folder(path)))
    location = hub_location(name)
    if location is None:
        raise ValueError(
            "expected model.base.name to be a folder, a .gguf file or a Hub id (owner/name or "
            f"owner/name@revision), got {name!r}: no such folder or file. Correct the name."
        )
    return location


def hub_location(name: str) -> BaseLocation | None:
    """Return the place on the Hub that a name has the form of; None for any other name.

    Args:
        name: Such as `owner/name` or `owner/name@revision`.
    """
    path = Path(name)
    hub_id, _, revision = name.partition("@")
    is_path = path.is_absolute() or name.startswith((".", "~")) or is_gguf(path)
    if is_path or hub_id.count("/") != 1 or name.endswith("@"):
        return None
    return BaseLocation(hub_id, revision or BaseLocation.revision)


def _gguf_folder(file: Path) -> Path:
    if not is_gguf(file):
        raise ValueError(
            f"expected model.base.name to be a folder or a .gguf file, got the file {file}. Set it "
            "to the folder that holds config.json, the tokenizer and the weights."
        )
    status = file.stat()
    content = _content_hash(file.resolve(), status.st_size, status.st_mtime_ns)
    folder = cache_folder() / "gguf" / content
    if not folder.is_dir():
        print(f"Unpacking {file}, once ...", flush=True)
        unpack_gguf(file, folder)
    return folder


@functools.lru_cache
def _content_hash(file: Path, size: int, mtime_ns: int) -> str:
    """Size and time are arguments so that a changed file is hashed again."""
    return sha256_file(file)[:32]
