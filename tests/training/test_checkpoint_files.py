"""Checkpoint files: whole or not at all, no code in them is run, damage is found and named."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mv_lightning.training.checkpoint_files import (
    AtomicCheckpointIO,
    check_settings,
    checkpoints,
    find_corruption,
    latest_valid,
    read_checkpoint,
)
from mv_lightning.versioning import FORMAT_VERSION, VERSION_KEY


def content(step: int = 3, **more: Any) -> dict[str, Any]:
    state = {"lora_A": torch.arange(6.0).view(2, 3)}
    return {"state_dict": state, "global_step": step, VERSION_KEY: FORMAT_VERSION, **more}


def save(folder: Path, *steps: int) -> list[Path]:
    """Checkpoints of these steps, in their order."""
    paths = [folder / f"step-{step:07d}.ckpt" for step in steps]
    for path, step in zip(paths, steps, strict=True):
        AtomicCheckpointIO().save_checkpoint(content(step), path)
    return paths


@pytest.mark.parametrize("mmap", [False, True])
def test_a_checkpoint_is_read_as_written(tmp_path: Path, mmap: bool) -> None:
    (path,) = save(tmp_path / "new" / "folder", 3)
    for read in (
        read_checkpoint(path, mmap=mmap),
        AtomicCheckpointIO().load_checkpoint(str(path), weights_only=False),
    ):
        assert read["global_step"] == 3
        assert torch.equal(read["state_dict"]["lora_A"], content()["state_dict"]["lora_A"])
    assert list(path.parent.iterdir()) == [path]


def test_tensors_are_read_to_the_device_that_is_asked_for(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 3)
    for read in (
        read_checkpoint(path, "meta"),
        AtomicCheckpointIO().load_checkpoint(path, map_location="meta"),
    ):
        assert read["state_dict"]["lora_A"].device.type == "meta"
    assert read_checkpoint(path)["state_dict"]["lora_A"].device.type == "cpu"


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_failed_write_says_from_where_it_resumes(
    tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save(tmp_path / "some", 2, 10)
    (tmp_path / "none").mkdir()

    def full_disk(*args: object) -> None:
        raise error("No space left on device\nand more lines")

    monkeypatch.setattr(torch, "save", full_disk)
    for folder, resumes in (("some", f"from {before[1]}"), ("none", "from the start, as there is")):
        path = tmp_path / folder / "step-0000011.ckpt"
        with pytest.raises(ValueError) as caught:
            AtomicCheckpointIO().save_checkpoint(content(), path)
        message = str(caught.value)
        assert message.startswith(f"the checkpoint {path} could not be written (No space left on")
        assert "and more lines" not in message and f"It resumes {resumes}" in message
        assert not path.exists()
    assert sorted((tmp_path / "some").iterdir()) == before


class Code:
    """Its unpickling would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of a checkpoint was run",))


@pytest.mark.parametrize("kind", ["code", "no steps", "no state", "text", "missing"])
def test_what_is_no_checkpoint_is_refused(
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where PyTorch's default is switched to reading anything."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "step-0000001.ckpt"
    values = content(code=Code() if kind == "code" else None)
    if kind == "no steps":
        del values["global_step"]
    if kind == "no state":
        del values["state_dict"]
    if kind == "text":
        path.write_text("{}")
    elif kind != "missing":
        torch.save(values, path)
    with pytest.raises(ValueError, match=r"is not a checkpoint of mv_lightning, or it is damaged"):
        read_checkpoint(path)
    assert "was run" not in capsys.readouterr().out


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-0000001.ckpt"
    torch.save({**content(), VERSION_KEY: FORMAT_VERSION + 1}, path)
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path} (a checkpoint): expected format version")


def test_the_newest_sound_checkpoint_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert latest_valid(tmp_path) is None
    two, ten, nine = save(tmp_path, 2, 10, 9)
    (tmp_path / ".step-0000011.ckpt.tmp").write_text("")
    assert checkpoints(tmp_path) == [ten, nine, two]
    assert latest_valid(tmp_path) == ten and capsys.readouterr().out == ""

    ten.write_bytes(ten.read_bytes()[:100])
    damaged = bytearray(nine.read_bytes())
    with zipfile.ZipFile(nine) as file:
        record = next(info for info in file.infolist() if info.filename.endswith("data/0"))
        start = damaged.index(b"data/0", record.header_offset)
    damaged[damaged.index(torch.arange(6.0).numpy().tobytes(), start)] ^= 1
    nine.write_bytes(damaged)
    assert find_corruption(two) is None and find_corruption(ten) == "File is not a zip file"
    corruption = find_corruption(nine)
    assert corruption == f"the record {record.filename} does not match its checksum"
    assert "No such file" in str(find_corruption(tmp_path / "step-0000012.ckpt"))
    assert latest_valid(tmp_path) == two
    assert capsys.readouterr().out == (
        f"warning: {ten} is damaged (File is not a zip file). The checkpoint before it is tried\n"
        f"warning: {nine} is damaged ({corruption}). The checkpoint before it is tried\n"
    )

    two.unlink()
    with pytest.raises(ValueError, match=rf"^all checkpoints in {tmp_path} are damaged"):
        latest_valid(tmp_path)


def test_only_the_same_settings_resume() -> None:
    checkpoint = {"settings": {"lr": 0.1, "rows": 4}}
    check_settings(Path("x.ckpt"), checkpoint, {"rows": 4, "lr": 0.1})
    message = r"^x\.ckpt cannot be resumed with other settings: lr was 0\.1, is 0\.2\. Restore"
    with pytest.raises(ValueError, match=message):
        check_settings(Path("x.ckpt"), checkpoint, {"rows": 4, "lr": 0.2})
