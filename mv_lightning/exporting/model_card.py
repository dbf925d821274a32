"""The model card of an export: what it is, its licence, how it is used, and how it was checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.artifacts.phase_results import STAGES, PhaseResults
from mv_lightning.exporting.comparison import comparison_table
from mv_lightning.reporting.blocks import Block, Code, Picture, Section, markdown_page
from mv_lightning.reporting.phase_blocks import metrics_table, settings_tables, splits_section

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


def model_card(phase: PhaseResults, folder: Path, comparison: dict[str, Any]) -> str:
    """Return the model card in Markdown, and copy its figures into the export.

    Args:
        phase: The phase that is exported.
        folder: The export.
        comparison: The content of `export.json`.
    """
    merged, base = comparison["format"] == "merged", phase.settings["model"]["base"]
    quantised = base["quantization"] != "none"
    library = "transformers" if merged else "peft"
    header = (
        f"---\nbase_model: {base['name']}\nlibrary_name: {library}\n"
        "pipeline_tag: text-classification\ntags: [math, verifier, outcome-reward-model]\n---\n\n"
    )
    checked = f"On {comparison['rows']:,} rows ({comparison['rows_from']})."
    source = f"Source: `{phase.settings['data']['source']}`. The splits say what was held out."
    sections = [
        Section("What it is", [_introduction(phase, merged, quantised)]),
        Section("Licence", [_LICENCE]),
        Section("Use", _usage(merged, quantised, (folder / CALIBRATION_FILE).is_file())),
        Section("Checked after export", [checked, comparison_table(comparison)]),
        Section("Data", [source]),
        splits_section(phase.manifest),
        Section("Settings", settings_tables([phase])),
    ]
    if phase.metrics:
        pictures = _pictures(phase, folder)
        sections.append(Section("Metrics", [metrics_table(phase.metrics), *pictures]))
    return header + markdown_page("Verifier of math answers", sections)


def _introduction(phase: PhaseResults, merged: bool, quantised: bool) -> str:
    form = "a LoRA adapter"
    needs = "plain transformers and peft"
    if merged:
        form, needs = "a model with the adapter merged into it, in bf16", "plain transformers"
    elif quantised:
        needs = "plain transformers, peft and bitsandbytes"
    return (
        "An outcome verifier: it says whether a given answer to a math question is correct. This "
        f"is {form}, of the base model `{phase.settings['model']['base']['name']}`, after "
        f"{phase.summary['steps_all_phases']:,} optimizer steps in {phase.folder.phase} phases. It "
        f"was trained with mv_lightning and needs {needs} only."
    )


def _usage(merged: bool, quantised: bool, calibrated: bool) -> list[Block]:
    load = _LOAD_UNQUANTISED
    if merged:
        load = _LOAD_MERGED
    elif quantised:
        load = _LOAD_QUANTISED
    meaning = "Log-odds above 0 mean True."
    if calibrated:
        meaning = (
            f"Log-odds above 0 mean True; `{CALIBRATION_FILE}` has the temperature to divide them "
            "by and the threshold to compare them with."
        )
    note = "`adapter_config.json` names the base model (`base_model_name_or_path`)."
    if merged:
        note = (
            "For vLLM, pass the same token ids and compare the log-probabilities of the verdict "
            "tokens. Its logits are rounded to bf16, which flips verdicts close to the threshold."
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
