"""The machine and the versions that a phase ran with."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = (
    "mv-lightning",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
)


def environment(device: torch.device) -> dict[str, str]:
    """Return the machine, and the versions that a result may depend on.

    Args:
        device: Where the model is.
    """
    values = {
        "device": f"CPU, {torch.get_num_threads()} threads",
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        # Unquantised models need no bitsandbytes, and the package may be used without being
        # installed.
        with suppress(PackageNotFoundError):
            values[name] = version(name)
    if device.type == "cuda":
        values |= {
            "device": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
        }
    return values
