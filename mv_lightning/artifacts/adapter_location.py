"""Where an adapter is loaded from: a folder, or the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from mv_lightning.artifacts.layout import ADAPTER_FOLDER, CALIBRATION_FILE
from mv_lightning.formatting import first_line
from mv_lightning.model.adapter_files import METADATA_FILE, WEIGHTS
from mv_lightning.model.location import hub_location


def adapter_folder(name: str | Path) -> Path:
    """Return the folder of an adapter, downloaded from the Hub if it is there.

    Args:
        name: A folder of an adapter or of a phase (its final adapter is taken), or `owner/name` or
            `owner/name@revision` on the Hub, to which `export --push` has written an adapter.

    Raises:
        ValueError: It is no folder, and cannot be loaded from the Hub.
    """
    path = Path(name).expanduser()
    location = None if path.exists() else hub_location(str(name))
    if location is None:
        path = path.absolute()
        final = path / ADAPTER_FOLDER
        return final if final.is_dir() else path
    from huggingface_hub import snapshot_download
    from peft.utils import CONFIG_NAME

    files = [WEIGHTS, CONFIG_NAME, METADATA_FILE, CALIBRATION_FILE]
    try:
        folder = snapshot_download(
            location.source, revision=location.revision, allow_patterns=files
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no adapter in {path.absolute()}: there is no such folder, and {name} could not be "
            f"loaded from the Hub: {first_line(error)} Correct the name, or log in with "
            "`hf auth login`"
        ) from error
    return Path(folder)
