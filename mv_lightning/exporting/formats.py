"""The formats of an export, written, and read without this package's model code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mv_lightning.artifacts.calibrations import load_calibration
from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.atomic import read_json
from mv_lightning.model.adapter_files import METADATA_FILE, read_metadata
from mv_lightning.schema import EncodedRows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from mv_lightning.verifier import Verifier

Format = Literal["adapter", "merged", "reward-model"]


def write_export(form: Format, adapter: Path, folder: Path) -> None:
    """Write a verifier in one of the formats.

    Args:
        form: Which.
        adapter: The adapter's folder.
        folder: An existing folder.

    Raises:
        ValueError: The adapter or its base cannot be loaded, or has no such form.
    """
    writers = {
        "adapter": write_adapter,
        "merged": write_merged,
        "reward-model": write_reward_model,
    }
    writers[form](adapter, folder)


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

    verifier, weights, config = _merge(adapter)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    verifier.tokenizer.save_pretrained(folder)
    _copy_metadata(adapter, folder)


def write_reward_model(adapter: Path, folder: Path) -> None:
    """Write the merged model as a sequence classifier with one label, in bf16.

    The logit is the calibrated log-odds. The tokenizer's chat template writes the verifier's prompt
    from a question (the user's message) and a solution (the assistant's).

    Args:
        adapter: The adapter's folder.
        folder: An existing folder.

    Raises:
        ValueError: The adapter or its base cannot be loaded, its verdict is not the output of a
            classifier, or a chat template cannot write its prompt.
    """
    from mv_lightning.data.encoding import verdict_token_ids
    from mv_lightning.exporting.chat_template import classifier_tokenizer
    from mv_lightning.model.classifier import as_classifier, check_classifier, score_weights
    from mv_lightning.model.verdict import output_head

    verifier, weights, config = _merge(adapter)
    check_classifier(config, read_metadata(adapter)["base"]["name"])
    tokenizer = classifier_tokenizer(verifier.tokenizer, verifier.prompt)
    calibration = verifier.calibration
    score_1D = score_weights(
        output_head(verifier.model.get_base_model()),
        verdict_token_ids(verifier.tokenizer, verifier.prompt),
        calibration.temperature,
    )
    # A threshold on logits: without the offset that a shift of the share of True adds.
    threshold = calibration.threshold - float(calibration.apply(np.zeros(1))[0])
    model = as_classifier(weights, score_1D, config, tokenizer.pad_token_id, threshold)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _copy_metadata(adapter, folder)


def _merge(adapter: Path) -> tuple[Verifier, dict[str, torch.Tensor], Any]:
    """The verifier in fp32, and the weights and the config of the merged model in bf16."""
    import torch

    from mv_lightning.model.merging import merged_config, merged_weights
    from mv_lightning.verifier import Verifier

    # In fp32, dequantised weights included: nothing is rounded before the sum.
    verifier = Verifier.load(adapter, precision="32-true")
    weights = merged_weights(verifier.model, torch.bfloat16)
    return verifier, weights, merged_config(verifier.model, torch.bfloat16)


def _copy_metadata(adapter: Path, folder: Path) -> None:
    for name in (METADATA_FILE, CALIBRATION_FILE):
        if (adapter / name).is_file():
            shutil.copy(adapter / name, folder)


def plain_log_odds(form: Format, folder: Path, encoded: EncodedRows) -> np.ndarray:
    """Compute log-odds as the model card shows, row by row.

    Args:
        form: The format of the export.
        folder: The export, see `write_export`.
        encoded: N rows.

    Returns:
        float64 [N], log P(True) - log P(False), before calibration.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if form == "reward-model":
        # Its logits are calibrated.
        return load_calibration(folder).temperature * _classifier_logits(folder, encoded, device)
    return _causal_log_odds(folder, encoded, device)


def _classifier_logits(folder: Path, encoded: EncodedRows, device: torch.device) -> np.ndarray:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": device}
    ).eval()
    with torch.inference_mode():
        logits = [
            float(model(_row_ids(encoded, index, device)).logits) for index in range(len(encoded))
        ]
    return np.array(logits)


def _causal_log_odds(folder: Path, encoded: EncodedRows, device: torch.device) -> np.ndarray:
    """With the verdict head in fp32."""
    import torch
    from transformers import AutoTokenizer

    from mv_lightning.data.encoding import verdict_token_ids
    from mv_lightning.data.prompts import prompt_from_metadata
    from mv_lightning.model.verdict import output_head

    model = _load_causal(folder, device)
    prompt = prompt_from_metadata(read_metadata(folder)["prompt"])
    verdict_ids = verdict_token_ids(AutoTokenizer.from_pretrained(folder), prompt)
    head, log_odds = output_head(model), []
    with torch.inference_mode():
        for index in range(len(encoded)):
            ids_1T = _row_ids(encoded, index, device)
            output = model(ids_1T, output_hidden_states=True, logits_to_keep=1)
            log_odds.append(float(head.log_odds(output.hidden_states[-1][:, -1], verdict_ids)))
    return np.array(log_odds)


def _row_ids(encoded: EncodedRows, index: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor(encoded.prompt_ids(index)[None], device=device)


def _load_causal(folder: Path, device: torch.device) -> PreTrainedModel:
    import torch
    from peft import PeftModel
    from peft.utils import CONFIG_NAME
    from transformers import AutoModelForCausalLM

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
