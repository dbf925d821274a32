"""The forms of an export, written and read without this package's model code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.atomic import read_json
from mv_lightning.model.adapter_files import METADATA_FILE
from mv_lightning.schema import EncodedRows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def write_adapter(adapter: Path, folder: Path) -> None:
    """Write an adapter as PEFT reads it.

    Args:
        adapter: The adapter's folder.
        folder: An existing folder.
    """
    shutil.copytree(adapter, folder, dirs_exist_ok=True)


def write_merged(adapter: Path, folder: Path) -> None:
    """Write the base model with an adapter merged into it, in bf16, as transformers reads it.

    A quantised base is dequantised: the merged model is not quantised.

    Args:
        adapter: The adapter's folder.
        folder: An existing folder.

    Raises:
        ValueError: The adapter or its base cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from mv_lightning.model.merging import merged_config, merged_weights
    from mv_lightning.verifier import Verifier

    # In fp32, dequantised weights included: nothing is rounded before the sum.
    verifier = Verifier.load(adapter, precision="32-true")
    weights = merged_weights(verifier.model, torch.bfloat16)
    config = merged_config(verifier.model, torch.bfloat16)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    verifier.tokenizer.save_pretrained(folder)
    for name in (METADATA_FILE, CALIBRATION_FILE):
        if (adapter / name).is_file():
            shutil.copy(adapter / name, folder)


def plain_log_odds(folder: Path, encoded: EncodedRows) -> np.ndarray:
    """Compute log-odds as the model card shows: row by row, with the verdict head in fp32.

    Args:
        folder: An export, as `write_adapter` or `write_merged` wrote it.
        encoded: N rows.

    Returns:
        float64 [N], log P(True) - log P(False).
    """
    import torch
    from transformers import AutoTokenizer

    from mv_lightning.data.encoding import verdict_token_ids
    from mv_lightning.data.prompts import prompt_from_metadata
    from mv_lightning.model.adapter_files import read_metadata
    from mv_lightning.model.verdict import output_head

    model = _load_plain(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    prompt = prompt_from_metadata(read_metadata(folder)["prompt"])
    verdict_ids = verdict_token_ids(AutoTokenizer.from_pretrained(folder), prompt)
    head, log_odds = output_head(model), []
    with torch.inference_mode():
        for start, stop in zip(encoded.starts_N[:-1], encoded.starts_N[1:], strict=True):
            ids = [*encoded.prefix_ids, *encoded.ids_T[start:stop].tolist()]
            output = model(
                torch.tensor([ids], device=model.device),
                output_hidden_states=True,
                logits_to_keep=1,
            )
            log_odds.append(float(head.log_odds(output.hidden_states[-1][:, -1], verdict_ids)))
    return np.array(log_odds)


def _load_plain(folder: Path, device: torch.device) -> PreTrainedModel:
    import torch
    from peft import PeftModel
    from peft.utils import CONFIG_NAME
    from transformers import AutoModelForCausalLM

    from mv_lightning.model.adapter_files import read_metadata
    from mv_lightning.model.quantization import quantization_config

    name: Any = folder
    options: dict[str, Any] = {}
    is_adapter = (folder / CONFIG_NAME).is_file()
    if is_adapter:
        name = read_json(folder / CONFIG_NAME)["base_model_name_or_path"]
        quantization = read_metadata(folder)["base"]["quantization"]
        options["quantization_config"] = quantization_config(quantization, torch.bfloat16)
    model: Any = AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.bfloat16, device_map={"": device}, **options
    )
    if is_adapter:
        model = PeftModel.from_pretrained(model, folder)
    return model.eval()
