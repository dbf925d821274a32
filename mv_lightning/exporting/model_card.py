"""The model card of an export: what it is, its licence, how it is used, and how it was checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.calibrations import read_calibration
from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.artifacts.phase_results import STAGES, PhaseResults
from mv_lightning.atomic import read_json
from mv_lightning.exporting.comparison import comparison_table
from mv_lightning.model.classifier import THRESHOLD_FIELD
from mv_lightning.model.location import hub_location
from mv_lightning.reporting.blocks import Block, Code, Picture, Section, markdown_page
from mv_lightning.reporting.phase_blocks import (
    metric_title,
    metrics_table,
    settings_tables,
    splits_section,
)

_LICENCE = (
    "This folder is derived from the base model, whose own licence governs it. Read that licence "
    "before you use or distribute the folder. Bases of the Llama 3 family are under Meta's Llama "
    "Community License, which among other things asks you to provide a copy of it, to display "
    "“Built with Llama”, to begin the name of a derived model with “Llama”, and to follow its "
    "acceptable use policy."
)
_LOAD_QUANTISED = """
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, BitsAndBytesConfig

quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
model = AutoPeftModelForCausalLM.from_pretrained(
    ".", dtype=torch.bfloat16, quantization_config=quantization
)
"""
_LOAD_UNQUANTISED = """
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained(".", dtype=torch.bfloat16)
"""
_LOAD_MERGED = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", dtype=torch.bfloat16)
"""
_LOAD_REWARD_MODEL = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSequenceClassification.from_pretrained(".", dtype=torch.bfloat16)


@torch.inference_mode()
def log_odds(**row):  # question, solution, answer
    messages = [
        {"role": "user", "content": row["question"]},
        {"role": "assistant", "content": row["solution"], "answer": row["answer"]},
    ]
    inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
    return float(model(**inputs).logits)
"""
_REWARD_MODEL_NOTE = (
    "The chat template writes the prompt of the training; the tokenizer of this folder belongs to "
    "it. Without `answer` the answer is found in the solution: the last `\\boxed{...}`, what "
    'follows `####` or "answer is", or the last number. It also loads in `pipeline('
    '"text-classification")`, as `reward_funcs` of TRL (conversational prompts), as a '
    "`CrossEncoder` of sentence-transformers, and in vLLM with `--runner pooling`."
)
_METRIC_TYPES = {"auroc": "roc_auc", "mcc": "matthews_correlation", "brier": "brier_score"}
"""Names of metrics on the Hub, where they differ."""
_CARD_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mcc",
    "auroc",
    "auroc_within_question",
    "brier",
    "ece",
)
_LOG_ODDS = """
tokenizer = AutoTokenizer.from_pretrained(".")
prompt = json.load(open("verifier.json"))["prompt"]


def token_ids(text, is_row_text=False):
    # Special tokens are special in the prompt, and text in a row.
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=is_row_text)
    return encoded["input_ids"]


@torch.inference_mode()
def log_odds(**row):  # question, solution, answer
    # Field by field, as in training: no token may span the border of a field.
    ids = token_ids(prompt["instruction"])
    start = tokenizer("")["input_ids"][:1]
    if start == [tokenizer.bos_token_id] != ids[:1]:
        ids = start + ids
    for literal, field, _, _ in string.Formatter().parse(prompt["body"]):
        ids += token_ids(literal)
        ids += token_ids(row[field], is_row_text=True) if field else []
    ids += token_ids(prompt["cue"])
    output = model(
        torch.tensor([ids], device=model.device), output_hidden_states=True, logits_to_keep=1
    )
    hidden = output.hidden_states[-1][0, -1].float()
    # In fp32: the model's own logits are rounded to bf16, to 1/16 where they are above 8.
    head = model.get_output_embeddings().weight.float()
    cue = prompt["cue"] + prompt["separator"]
    logits = head[[token_ids(cue + word)[-1] for word in ("False", "True")]] @ hidden
    logits /= getattr(model.config, "logits_scaling", 1)  # Granite
    if limit := getattr(model.config, "final_logit_softcapping", None):  # Gemma
        logits = limit * torch.tanh(logits / limit)
    return float(logits[1] - logits[0])
"""


def model_card(phase: PhaseResults, folder: Path, comparison: dict[str, Any], name: str) -> str:
    """Return the model card in Markdown, and copy its figures into the export.

    Args:
        phase: The phase that is exported.
        folder: The export.
        comparison: The content of `export.json`.
        name: Of the model, in the card's metadata.
    """
    form = comparison["format"]
    quantised = phase.settings["model"]["base"]["quantization"] != "none"
    checked = f"On {comparison['rows']:,} rows ({comparison['rows_from']})."
    source = f"Source: `{phase.settings['data']['source']}`. The splits say what was held out."
    sections = [
        Section("What it is", [_introduction(phase, form, quantised)]),
        Section("Licence", [_LICENCE]),
        Section("Use", _usage(form, quantised, folder)),
        Section("Checked after export", [checked, comparison_table(comparison)]),
        Section("Data", [source]),
        splits_section(phase.manifest),
        Section("Settings", settings_tables([phase])),
    ]
    if phase.metrics:
        pictures = _pictures(phase, folder)
        sections.append(Section("Metrics", [metrics_table(phase.metrics), *pictures]))
    metadata = _metadata(phase, form, name)
    return f"---\n{metadata}\n---\n\n" + markdown_page("Verifier of math answers", sections)


def _metadata(phase: PhaseResults, form: str, name: str) -> str:
    """The YAML that the Hub reads: what the model is, and its metrics as a model index."""
    from huggingface_hub import EvalResult, ModelCardData

    base = hub_location(phase.settings["model"]["base"]["name"])
    source = str(phase.settings["data"]["source"])
    results = []
    for stage, scores in phase.metrics.items():
        for metric in _CARD_METRICS:
            value = scores["metrics"][metric]["value"]
            if value is None:
                continue
            results.append(
                EvalResult(
                    task_type="text-classification",
                    dataset_type=source,
                    dataset_name=source,
                    dataset_split=STAGES[stage],
                    metric_type=_METRIC_TYPES.get(metric, metric),
                    metric_name=metric_title(metric),
                    metric_value=value,
                )
            )
    data = ModelCardData(
        base_model=base.source if base is not None else None,
        library_name="peft" if form == "adapter" else "transformers",
        pipeline_tag="text-classification",
        tags=["math", "verifier", "outcome-reward-model"],
        model_name=name,
        eval_results=results or None,
    )
    return data.to_yaml()


def _introduction(phase: PhaseResults, form: str, quantised: bool) -> str:
    forms = {
        "adapter": "a LoRA adapter",
        "merged": "a model with the adapter merged into it, in bf16",
        "reward-model": (
            "a sequence classifier with one label, made of the model with the adapter merged into "
            "it, in bf16"
        ),
    }
    needs = "plain transformers"
    if form == "adapter":
        needs += ", peft and bitsandbytes" if quantised else " and peft"
    return (
        "An outcome verifier: it says whether a given answer to a math question is correct. This "
        f"is {forms[form]}, of the base model `{phase.settings['model']['base']['name']}`, after "
        f"{phase.summary['steps_all_phases']:,} optimizer steps in {phase.folder.phase} phases. It "
        f"was trained with mv_lightning and needs {needs} only."
    )


def _usage(form: str, quantised: bool, folder: Path) -> list[Block]:
    if form == "reward-model":
        threshold = read_json(folder / "config.json")[THRESHOLD_FIELD]
        meaning = (
            "The output is the log-odds, divided by the temperature of the calibration. Its "
            "sigmoid is the probability that the answer is correct. Log-odds above "
            f"{threshold:g} (`{THRESHOLD_FIELD}` in `config.json`) mean True: the layer `score` "
            "has no bias that could hold this threshold."
        )
        return [
            "From this folder:",
            Code(_LOAD_REWARD_MODEL, "python"),
            meaning,
            _REWARD_MODEL_NOTE,
        ]
    load = _LOAD_QUANTISED if quantised else _LOAD_UNQUANTISED
    note = "`adapter_config.json` names the base model (`base_model_name_or_path`)."
    if form == "merged":
        load = _LOAD_MERGED
        note = (
            "For vLLM, pass the same token ids and compare the log-probabilities of the verdict "
            "tokens. Its logits are rounded to bf16, which flips verdicts close to the threshold."
        )
    meaning = "Log-odds above 0 mean True."
    stored = read_calibration(folder)
    if stored is not None:
        calibration = stored.calibration
        meaning = (
            f"Divide the log-odds by the temperature, {calibration.temperature:g}; above the "
            f"threshold, {calibration.threshold:g}, they mean True. Both are in "
            f"`{CALIBRATION_FILE}`."
        )
    return [
        "The verdict is the next token after the prompt. From this folder:",
        Code(f"import json\nimport string\n\nimport torch{load}{_LOG_ODDS}", "python"),
        meaning,
        note,
    ]


def _pictures(phase: PhaseResults, folder: Path) -> list[Picture]:
    pictures = []
    for file in sorted(phase.folder.plots.glob("*.png")):
        stage, _, content = file.stem.partition("_")
        copy = Path(shutil.copy(file, folder))
        pictures.append(Picture(copy, f"{STAGES[stage]}: {content.replace('_', ' ')}"))
    return pictures
