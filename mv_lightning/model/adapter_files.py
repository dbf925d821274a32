"""Adapters as folders: PEFT's own file format, and metadata that says what they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mv_lightning.atomic import atomic_folder
from mv_lightning.formatting import flatten_settings
from mv_lightning.model.adapters import trained_parameters
from mv_lightning.model.linear_head import load_linear_head, save_linear_head
from mv_lightning.versioning import read_versioned_json, write_versioned_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"
"""The only form of weights that is read: unlike a pickle, it cannot hold code."""
METADATA_FILE = "verifier.json"
"""The adapter metadata: what the adapter was trained on, and the prompt that it expects."""
COMPARED = {
    "base": "model.base.name (in Python: base)",
    "tokenizer": "model.base.name (in Python: base)",
    "prompt": "data.prompt",
    "summarizer": "data.summarize",
}
"""What of the metadata must agree with what is loaded, and the setting of each."""
NO_SUMMARIZER = {"name": None, "fingerprint": None}
"""The metadata's entry `summarizer` of an adapter that reads whole solutions."""
_DEFAULTS = {"summarizer": NO_SUMMARIZER, "head": "verdict"}
"""Entries of the metadata that adapters of earlier versions lack."""
_REQUIRED = (
    *("base.name", "base.quantization", "base.fingerprint"),
    *("tokenizer.name", "tokenizer.fingerprint"),
    *("lora.r", "lora.alpha", "lora.rslora"),
    *("prompt.name", "prompt.instruction", "prompt.body", "prompt.cue", "prompt.fingerprint"),
    *("summarizer.name", "summarizer.fingerprint"),
    *("head", "max_length", "steps"),
)
"""Entries that the metadata of every adapter must have, by their dotted names."""
_REQUIRED_OF_SUMMARIZER = ("summarizer.above_tokens", "summarizer.max_length")
"""Further ones where solutions are summarized."""
_COMPARED_FIELDS = ("r", "lora_alpha", "use_rslora", "target_modules")


def save(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, metadata: dict[str, Any], folder: Path
) -> None:
    """Write the adapter as a PEFT folder, with a head of its own beside it, whole or not at all.

    Args:
        model: The adapted model.
        tokenizer: Saved too, so that the folder can be used without the base's.
        metadata: What `check_compatible` compares, see `read_metadata`.
        folder: Where to.

    Raises:
        OSError: The disk is full or cannot be written to.
    """
    from safetensors import SafetensorError

    with atomic_folder(folder) as tmp_path:
        try:
            model.save_pretrained(str(tmp_path))
            save_linear_head(model.get_base_model(), tmp_path)
        except SafetensorError as error:  # the writer's own type for errors of the system
            raise OSError(
                f"the adapter {folder} could not be written: {error}. Free some disk space and "
                "repeat the command."
            ) from error
        # PEFT's model card is a form to fill in; the metadata has the facts.
        (tmp_path / "README.md").unlink(missing_ok=True)
        tokenizer.save_pretrained(str(tmp_path))
        write_versioned_json(tmp_path / METADATA_FILE, metadata)


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what `save` wrote about the adapter.

    Args:
        folder: Of the adapter.

    Raises:
        ValueError: The folder is missing or is not one that `save` wrote.
    """
    try:
        metadata = read_versioned_json(folder / METADATA_FILE, "the metadata of an adapter")
    except FileNotFoundError as error:
        raise ValueError(
            f"no adapter in {folder}: {METADATA_FILE} is missing. Run the phase that trains it "
            "first, or set model.init_from to the folder of another adapter."
        ) from error
    metadata = {**_DEFAULTS, **metadata}
    present = flatten_settings(metadata)
    summarized = present.get("summarizer.name") is not None
    required = (*_REQUIRED, *_REQUIRED_OF_SUMMARIZER) if summarized else _REQUIRED
    missing = [entry for entry in required if entry not in present]
    if missing:
        raise ValueError(
            f"{folder / METADATA_FILE} does not say what the adapter belongs to: expected "
            f"{', '.join(missing)}, got no such entries. Copy the adapter's folder again, with all "
            "its files."
        )
    return metadata


def load(model: PeftModel, folder: Path) -> None:
    """Fill the model's adapters, and a head of its own, from a PEFT folder.

    Args:
        model: Has adapters of the same shapes; changed in place.
        folder: What `save` wrote.

    Raises:
        ValueError: The files cannot be read, or rank, scale, targets, keys or heads differ; both
            sides are named.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = LoraConfig.from_pretrained(str(folder))
        weights: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"expected an adapter (adapter_config.json and {WEIGHTS}) in {folder}, but it cannot "
            f"be read: {error}. A pickle such as adapter_model.bin is never opened. Copy the "
            "folder again, or train the adapter again."
        ) from error
    _check_settings(stored, model.peft_config["default"], folder)
    names = [name for name in trained_parameters(model) if "lora_" in name]
    expected = {name.replace(".default.", ".") for name in names}
    check_keys(set(weights), expected, f"the adapter in {folder}")
    load_linear_head(model.get_base_model(), folder)
    set_peft_model_state_dict(model, weights)


def check_compatible(metadata: dict[str, Any], current: dict[str, Any], context: str) -> None:
    """Compare what an adapter was trained with to what is loaded now.

    Args:
        metadata: Of the adapter, see `read_metadata`.
        current: The same entries, or some of them, of what is loaded.
        context: Names the adapter in the message.

    Raises:
        ValueError: A fingerprint differs.
    """
    metadata = {**_DEFAULTS, **metadata}
    for part, setting in COMPARED.items():
        if part not in current:
            continue
        expected, got = metadata[part], current[part]
        if expected["fingerprint"] != got["fingerprint"]:
            raise ValueError(
                f"{context} belongs to another {part}: expected {expected['name']!r} "
                f"({expected['fingerprint']}), got {got['name']!r} ({got['fingerprint']}). "
                f"Set {setting} as it was in training."
            )


def check_keys(stored: set[str], expected: set[str], context: str) -> None:
    """Compare the names of saved weights with those of the model.

    Args:
        stored: Names of the saved weights.
        expected: Names of the model's weights.
        context: Names the saved weights in the message.

    Raises:
        ValueError: Keys are missing or unexpected; the first few of each are named.
    """
    missing, unexpected = sorted(expected - stored), sorted(stored - expected)
    if missing or unexpected:
        raise ValueError(
            f"{context} does not fit the model: expected {len(expected)} weights, of which "
            f"{len(missing)} are missing ({', '.join(missing[:3]) or 'none'}), and got "
            f"{len(unexpected)} unexpected ones ({', '.join(unexpected[:3]) or 'none'}). Use the "
            "base and the model.lora settings that it was trained with."
        )


def _check_settings(stored: Any, current: Any, folder: Path) -> None:
    differing = [
        f"{field}: expected {getattr(stored, field)}, got {getattr(current, field)}"
        for field in _COMPARED_FIELDS
        if getattr(stored, field) != getattr(current, field)
    ]
    if differing:
        raise ValueError(
            f"the adapter in {folder} was trained with other settings ({'; '.join(differing)}). "
            "Set model.lora as it was in training."
        )
