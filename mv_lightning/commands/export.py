"""`export`: a phase's result as a folder that plain peft and transformers, or vLLM, can use without this package.

What was written is loaded back without this package's code and compared with the verifier on rows that were held out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mv_lightning.artifacts.layout import CALIBRATION_FILE
from mv_lightning.artifacts.phase_results import STAGES, PhaseResults, load_rows, read_phase
from mv_lightning.atomic import atomic_folder, write_json
from mv_lightning.data.sources import load_source
from mv_lightning.metrics.calibration import Calibration
from mv_lightning.metrics.scores import metric_values
from mv_lightning.model.adapter_files import METADATA_FILE
from mv_lightning.reporting.blocks import Block, Code, Picture, Section, Table, markdown_page
from mv_lightning.reporting.phase_blocks import metrics_table, settings_tables, splits_section
from mv_lightning.schema import EncodedRows

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers import PreTrainedModel

EXPORT = "export.json"
ROWS = 500
MAX_FLIPS = 0.02

_LICENCE = (
    "This folder is derived from the base model, and the base model's own licence governs it; read that before you "
    "use or pass it on. Bases of the Llama 3 family are under Meta's Llama Community License, which among other things "
    "asks you to hand on a copy of it, to display “Built with Llama”, to begin the name of a derived model with "
    "“Llama”, and to keep to its acceptable use policy."
)
_LOAD_ADAPTER = """
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, BitsAndBytesConfig

quantization = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
)
model = AutoPeftModelForCausalLM.from_pretrained(".", dtype=torch.bfloat16, quantization_config=quantization)
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
_ASK = """
tokenizer = AutoTokenizer.from_pretrained(".")
prompt = json.load(open("verifier.json"))["prompt"]


def token_ids(text, is_row_text=False):
    # Special tokens are special in the prompt, and text in a row.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=is_row_text)["input_ids"]


@torch.inference_mode()
def log_odds(**row):  # question, solution, answer
    # Field by field, as in training: tokens must not reach over the borders of the fields.
    ids = token_ids(prompt["instruction"])
    start = tokenizer("")["input_ids"][:1]
    if start == [tokenizer.bos_token_id] != ids[:1]:
        ids = start + ids
    for literal, field, _, _ in string.Formatter().parse(prompt["body"]):
        ids += token_ids(literal)
        ids += token_ids(row[field], is_row_text=True) if field else []
    ids += token_ids(prompt["cue"])
    output = model(torch.tensor([ids], device=model.device), output_hidden_states=True, logits_to_keep=1)
    hidden = output.hidden_states[-1][0, -1].float()
    # In fp32: the model's own logits are rounded to bf16, to 1/16 where they are above 8.
    head = model.get_output_embeddings().weight.float()
    true, false = (token_ids(prompt["cue"] + prompt["separator"] + v)[-1] for v in ("True", "False"))
    return float(hidden @ (head[true] - head[false]))
"""


def run_export(words: list[str]) -> None:
    """Write the folder, load it back, compare, and keep it if few enough verdicts differ.

    Args:
        words: The command line after `export`.

    Raises:
        ValueError: The phase is not finished, rows cannot be read, or too many verdicts differ.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mv_lightning export",
        description="Write a phase's adapter, or the base with the adapter merged into it, for use without this "
        "package; load it back and compare the verdicts on rows that were held out.",
    )
    parser.add_argument(
        "phase", type=Path, metavar="PHASE_FOLDER", help="of a finished phase: checkpoints/phase3"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new folder, or an older export"
    )
    parser.add_argument(
        "--merged", action="store_true", help="a whole model in bf16 instead of a PEFT adapter"
    )
    parser.add_argument(
        "--source", help="rows to compare on; default: the phase's sub-test, else validation rows"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        metavar="N",
        help="of them, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--max-flips",
        type=float,
        default=MAX_FLIPS,
        metavar="SHARE",
        help="of verdicts that may differ, 0 to 1; beyond it nothing is left (default: %(default)s)",
    )
    options = parser.parse_args(words)
    if options.rows < 1 or not 0 <= options.max_flips <= 1:
        raise ValueError(
            f"--rows {options.rows} --max-flips {options.max_flips}: needed are at least one row and a share of 0 to 1"
        )
    if options.out.exists() and not (options.out / EXPORT).is_file():
        raise ValueError(
            f"--out {options.out} is there and is not an export (no {EXPORT}); name a new folder"
        )
    from mv_lightning.verifier import Verifier

    phase = read_phase(options.phase)
    rows, labels_N, told = _held_out(phase, options.source, options.rows)
    verifier = Verifier.load(phase.folder.path, precision=phase.settings["trainer"]["precision"])
    encoded, calibration = verifier.encode(rows), verifier.calibration
    before_N = verifier.raw_log_odds(encoded)
    del verifier  # one model at a time in memory
    with atomic_folder(options.out) as tmp_path:
        for name in (METADATA_FILE, CALIBRATION_FILE):
            if (phase.folder.adapter / name).is_file():
                shutil.copy(phase.folder.adapter / name, tmp_path)
        if options.merged:
            _write_merged(phase.folder.adapter, tmp_path)
        else:
            shutil.copytree(phase.folder.adapter, tmp_path, dirs_exist_ok=True)
        after_N = plain_log_odds(tmp_path, encoded)
        found: dict[str, Any] = {
            "form": "merged" if options.merged else "adapter",
            "rows_from": told,
        }
        found |= compare(calibration, before_N, after_N, labels_N)
        if found["flips"] > options.max_flips * len(rows):
            raise ValueError(
                f"{found['flips']} of {len(rows):,} verdicts differ once exported, more than --max-flips "
                f"{options.max_flips} allows (log-odds differ by {found['log_odds_change']['mean']:.3f} in the mean); "
                "nothing was written. Train in bf16-mixed, or allow more"
            )
        write_json(tmp_path / EXPORT, found)
        (tmp_path / "README.md").write_text(_card(phase, tmp_path, found), encoding="utf-8")
    print(f"{_compared(found).markdown()}\n\non {len(rows):,} rows ({told}): {options.out}")


def compare(
    calibration: Calibration, before_N: np.ndarray, after_N: np.ndarray, labels_N: np.ndarray | None
) -> dict[str, Any]:
    """Tell how far two readings of the same rows are apart, as plain values.

    Args:
        calibration: Decides about verdicts.
        before_N: float64 [N], raw log-odds of the verifier.
        after_N: float64 [N], of what was exported.
        labels_N: bool [N]; None for no AUROC.
    """
    change_N = np.abs(after_N - before_N)
    found: dict[str, Any] = {
        "rows": len(before_N),
        "flips": int(np.count_nonzero(calibration.decide(before_N) != calibration.decide(after_N))),
        "log_odds_change": {"mean": float(change_N.mean()), "max": float(change_N.max())},
        "auroc": None,
    }
    if labels_N is not None and len(np.unique(labels_N)) == 2:
        before, after = (metric_values(labels_N, odds_N)["auroc"] for odds_N in (before_N, after_N))
        found["auroc"] = {"before": before, "after": after, "change": after - before}
    return found


def plain_log_odds(folder: Path, encoded: EncodedRows) -> np.ndarray:
    """Read the verdicts as the model card shows a user without this package: row by row, with the head in fp32.

    Args:
        folder: A PEFT folder or a model's folder.
        encoded: N rows.

    Returns:
        float64 [N], log P(True) - log P(False).
    """
    import torch
    from transformers import AutoTokenizer

    from mv_lightning.data.encoding import verdict_token_ids
    from mv_lightning.data.prompts import prompt_from_metadata
    from mv_lightning.model.adapter_files import read_metadata

    model = _load_plain(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    prompt = prompt_from_metadata(read_metadata(folder)["prompt"])
    false, true = verdict_token_ids(AutoTokenizer.from_pretrained(folder), prompt)
    head_VD = model.get_output_embeddings().weight
    direction_D = head_VD[true].float() - head_VD[false].float()
    odds = []
    with torch.inference_mode():
        for start, stop in zip(encoded.starts_N[:-1], encoded.starts_N[1:], strict=True):
            ids_1T = torch.tensor(
                [[*encoded.prefix_ids, *encoded.ids_T[start:stop].tolist()]], device=model.device
            )
            output = model(ids_1T, output_hidden_states=True, logits_to_keep=1)
            odds.append(float(output.hidden_states[-1][0, -1].float() @ direction_D))
    return np.array(odds)


def _load_plain(folder: Path, device: torch.device) -> PreTrainedModel:
    import torch
    from peft import PeftModel
    from peft.utils import CONFIG_NAME
    from transformers import AutoModelForCausalLM

    from mv_lightning.model.adapter_files import read_metadata
    from mv_lightning.model.quantization import quantization_config

    if not (folder / CONFIG_NAME).is_file():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, device_map={"": device}
        )
        return model.eval()
    base = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["base_model_name_or_path"]
    quantization = read_metadata(folder)["base"]["quantization"]
    quantised = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16,
        device_map={"": device},
        quantization_config=quantization_config(quantization, torch.bfloat16),
    )
    return PeftModel.from_pretrained(quantised, folder).eval()


def _write_merged(adapter: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from mv_lightning.model.merging import merged_weights
    from mv_lightning.verifier import Verifier

    # In fp32 throughout, quantised weights included: what is summed was not rounded before.
    verifier = Verifier.load(adapter, precision="32-true")
    weights = merged_weights(verifier.model, torch.bfloat16)
    config = AutoConfig.from_pretrained(verifier.model.get_base_model().config._name_or_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.save_pretrained(tmp_path)
    verifier.tokenizer.save_pretrained(tmp_path)


def _held_out(
    phase: PhaseResults, source: str | None, most: int
) -> tuple[datasets.Dataset, np.ndarray | None, str]:
    """The rows to compare on, their labels if there are any, and what they are."""
    if source is not None:
        loaded = load_source(source, split="test", labelled=None)
        rows_N, told = np.arange(len(loaded.table)), source
    else:
        loaded, splits = load_rows(phase), phase.splits
        stage = "test" if len(splits.test) else "val"
        rows_N, told = (
            splits.test if stage == "test" else splits.val[phase.folder.phase - 1],
            STAGES[stage],
        )
        if not len(rows_N):
            raise ValueError(
                "the phase has neither sub-test nor validation rows to compare on; name some as --source"
            )
    rows_N = rows_N[:most]
    return (
        loaded.table.select(rows_N),
        None if loaded.labels_N is None else loaded.labels_N[rows_N],
        told,
    )


def _card(phase: PhaseResults, tmp_path: Path, found: dict[str, Any]) -> str:
    """The model card; its figures are copied into `tmp_path`."""
    merged, base = found["form"] == "merged", phase.settings["model"]["base"]
    quantised = base["quantization"] != "none"
    head = (
        f"---\nbase_model: {base['name']}\nlibrary_name: {'transformers' if merged else 'peft'}\n"
        "pipeline_tag: text-classification\ntags: [math, verifier, outcome-reward-model]\n---\n\n"
    )
    what = "a model with the adapter merged into it, in bf16" if merged else "a LoRA adapter"
    intro = (
        f"An outcome verifier: it says whether a given answer to a math question is correct. This is {what}, of the "
        f"base model `{base['name']}`, after {phase.summary['steps_all_phases']:,} optimizer steps in "
        f"{phase.folder.phase} phases. It was trained with mv_lightning and needs plain transformers"
        f"{'' if merged else ', peft and bitsandbytes' if quantised else ' and peft'} only."
    )
    load = _LOAD_MERGED if merged else _LOAD_ADAPTER if quantised else _LOAD_UNQUANTISED
    calibrated = f"; `{CALIBRATION_FILE}` has the temperature to divide them by, and the threshold"
    usage: list[Block] = [
        "The verdict is the next token after the prompt. From this folder:",
        Code(f"import json\nimport string\n\nimport torch{load}{_ASK}", "python"),
        f"Log-odds above 0 say True{calibrated if (tmp_path / CALIBRATION_FILE).is_file() else ''}.",
    ]
    if merged:
        usage.append(
            "For vLLM, give the same token ids and compare the log-probabilities of the two words; its logits are "
            "rounded to bf16, which turns verdicts close to the threshold."
        )
    else:
        usage.append(
            "Where the base model lies is said in `adapter_config.json` (`base_model_name_or_path`)."
        )
    sections = [
        Section("What it is", [intro]),
        Section("Licence", [_LICENCE]),
        Section("Use", usage),
        Section(
            "Checked after export",
            [f"On {found['rows']:,} rows ({found['rows_from']}).", _compared(found)],
        ),
        Section(
            "Data",
            [
                f"Source: `{phase.settings['data']['source']}`, see the splits for what was held out."
            ],
        ),
        splits_section(phase.manifest),
        Section("Settings", settings_tables([phase])),
    ]
    if phase.metrics:
        pictures = []
        for file in sorted(phase.folder.plots.glob("*.png")):
            stage, _, shows = file.stem.partition("_")
            pictures.append(
                Picture(
                    Path(shutil.copy(file, tmp_path)), f"{STAGES[stage]}: {shows.replace('_', ' ')}"
                )
            )
        sections.append(Section("Metrics", [metrics_table(phase.metrics), *pictures]))
    return head + markdown_page("Verifier of math answers", sections)


def _compared(found: dict[str, Any]) -> Table:
    change = found["log_odds_change"]
    rows = [
        ("verdicts that differ", f"{found['flips']} ({found['flips'] / found['rows']:.2%})"),
        ("change of log-odds, mean", f"{change['mean']:.4f}"),
        ("change of log-odds, most", f"{change['max']:.4f}"),
    ]
    if found["auroc"]:
        told = f"{found['auroc']['before']:.4f}, then {found['auroc']['after']:.4f} ({found['auroc']['change']:+.4f})"
        rows.append(("AUROC", told))
    return Table(("", found["form"]), rows)
