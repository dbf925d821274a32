"""Metadata of an adapter, for tests of folders whose weights do not matter."""

from __future__ import annotations

import dataclasses
from functools import reduce
from operator import getitem
from typing import Any

from mv_lightning.data.prompts import load_prompt
from mv_lightning.model.adapter_files import NO_SUMMARIZER

SUMMARIZER = {"name": "t5", "above_tokens": 300, "max_length": 128, "fingerprint": "2" * 16}


def adapter_metadata(**changes: Any) -> dict[str, Any]:
    """Return what `verifier.json` holds.

    Args:
        changes: Other values, by the path of the entry, such as `lora.alpha`.
    """
    prompt = load_prompt("detailed")
    metadata = {
        "base": {"name": "base", "quantization": "nf4", "fingerprint": "0" * 16},
        "tokenizer": {"name": "base", "fingerprint": "1" * 16},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "rslora": False, "loftq": False},
        "head": "verdict",
        "prompt": {**dataclasses.asdict(prompt), "fingerprint": prompt.fingerprint},
        "max_length": 2048,
        "summarizer": NO_SUMMARIZER,
        "steps": 50,
    }
    for path, value in changes.items():
        *outer, last = path.split(".")
        reduce(getitem, outer, metadata)[last] = value
    return metadata
