"""GGUF files: one file with a quantized model and its tokenizer, as llama.cpp reads it."""

from __future__ import annotations

from pathlib import Path

import torch

from mv_lightning.atomic import atomic_folder


def is_gguf(path: Path) -> bool:
    """Return whether a path is named as a GGUF file.

    Args:
        path: Of a file that need not exist.
    """
    return path.suffix.lower() == ".gguf"


def unpack_gguf(file: Path, folder: Path) -> None:
    """Save the model and the tokenizer of a GGUF file as a folder of transformers, in bf16.

    Args:
        file: The GGUF file.
        folder: Where to; whole or not at all.

    Raises:
        ValueError: The file is damaged, transformers does not know its architecture, or the
            package gguf is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with atomic_folder(folder) as tmp_path:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            tokenizer.save_pretrained(tmp_path)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
            model.save_pretrained(tmp_path)
    except ImportError as error:
        raise ValueError(
            f"{file} is read with the package gguf, which cannot be imported: {error}. Install it "
            "with: pip install gguf"
        ) from error
    except OSError:
        raise
    except Exception as error:  # a damaged file raises many types in the reader
        raise ValueError(
            f"expected {file} to be a GGUF file of a causal language model that transformers "
            f"supports, got {type(error).__name__}: {error}. Download the file again, or use the "
            "model's folder with safetensors."
        ) from error
