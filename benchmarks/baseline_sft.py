"""TRL's SFTTrainer, a step at a time; started by `benchmarks.baselines.BaselineTrainer`.

Its only argument is JSON: `model` (folder), `random` (random weights for the architecture in the
folder's config), `unsloth` (load and adapt the model with Unsloth), `texts` (JSON lines of prompt
and completion, in the order of training), `split_text` (pass them as two columns), `output`
(folder), `rank`, `steps`, `optim` (learning rate and warm-up), `save` (folder of the adapter,
optional) and `config` (other arguments of SFTConfig). A training whose adapter is saved writes
checkpoints to `output`, and continues from the last one of them when it is started again.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

if json.loads(sys.argv[1])["unsloth"]:
    import_module("unsloth")  # must be imported before the libraries that it patches

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from trl import SFTConfig, SFTTrainer

from benchmarks.baselines import CHECKPOINT_STEPS
from benchmarks.measure import Clock, peak_memory
from mv_lightning.model.base import BaseSettings, load_base
from mv_lightning.model.families import TARGETS
from mv_lightning.model.precision import default_dtype
from mv_lightning.model.quantization import quantization_config
from mv_lightning.schema import DEFAULT_SEED

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = default_dtype(DEVICE)
"""bf16 where the device computes in it, as in the report; the package's own precision elsewhere."""
MAX_LENGTH = 2_048


def send(answer: dict[str, Any]) -> None:
    """Send a line to the process that started this one."""
    print(json.dumps({"answer": answer}), flush=True)


class OnDemand(TrainerCallback, ExportableState):
    """Waits for a line before each optimizer step, and answers it when the step is logged.

    Reading and collating the rows happens before and is not measured. The answers are a part of
    the trainer's checkpoints.
    """

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        """Take the answers of the steps that a checkpoint has done."""
        self._answers = answers

    def state(self) -> dict[str, Any]:
        """Return what `_last_checkpoint` reads."""
        return {"args": {"answers": self._answers}, "attributes": {}}

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Wait, then start the clock."""
        if not sys.stdin.readline():
            sys.exit()
        self._clock = Clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Read the clock; logging is not measured."""
        self._cost = self._clock.read()

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Send the cost of the step."""
        if "loss" in logs:
            loss, tokens = float(logs["loss"]), logs.get("num_tokens")
            answer = {**self._cost, **peak_memory(), "loss": loss, "tokens_so_far": tokens}
            self._answers.append(answer)
            send(answer)


def _last_checkpoint(output: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the folder of the last complete checkpoint, if there is any, and its steps' answers.

    The trainer writes its state last; a folder without it is a checkpoint that was interrupted.
    """
    states = list(output.glob(f"checkpoint-*/{TRAINER_STATE_NAME}"))
    if not states:
        return None, []
    last = max(states, key=lambda state: int(state.parent.name.rpartition("-")[2]))
    callbacks = json.loads(last.read_text(encoding="utf-8"))["stateful_callbacks"]
    return str(last.parent), callbacks[OnDemand.__name__]["args"]["answers"]


def load(settings: dict[str, Any]) -> dict[str, Any]:
    """Return SFTTrainer's arguments: the base in NF4, with adapters or their configuration."""
    folder, rank = settings["model"], settings["rank"]
    if settings["unsloth"]:
        unsloth: Any = import_module("unsloth").FastLanguageModel
        model, tokenizer = unsloth.from_pretrained(
            folder, max_seq_length=MAX_LENGTH, load_in_4bit=True
        )
        adapted = unsloth.get_peft_model(
            model,
            r=rank,
            lora_alpha=rank,
            target_modules=list(TARGETS),
            use_gradient_checkpointing="unsloth",
            random_state=DEFAULT_SEED,
        )
        return {"model": adapted, "processing_class": tokenizer}
    if settings["random"]:
        random = BaseSettings(name=folder, weights="random", gradient_checkpointing=False)
        model = load_base(random, DTYPE, DEVICE)
        model.set_attn_implementation("sdpa")
    else:
        quantization = quantization_config("nf4", DTYPE)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPE, device_map={"": DEVICE}, quantization_config=quantization
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    return {"model": model, "processing_class": tokenizer, "peft_config": lora}


def main() -> None:
    """Set up the trainer as its documentation does, and train."""
    settings = json.loads(sys.argv[1])
    if not GPU:
        torch.set_num_threads(1)
    with open(settings["texts"], encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if not settings["split_text"]:
        rows = [{"text": row["prompt"] + row["completion"]} for row in rows]
    config = SFTConfig(
        output_dir=settings["output"],
        max_steps=settings["steps"],
        optim="adamw_8bit",
        weight_decay=0.01,
        max_grad_norm=1.0,
        lr_scheduler_type="linear",
        bf16=DTYPE is torch.bfloat16,
        fp16=DTYPE is torch.float16,
        use_cpu=not GPU,
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to=[],
        save_strategy="steps" if settings.get("save") else "no",
        save_steps=CHECKPOINT_STEPS,
        save_total_limit=1,
        disable_tqdm=True,
        seed=DEFAULT_SEED,
        **settings["optim"],
        **{"max_length": MAX_LENGTH, **settings["config"]},
    )
    checkpoint, answers = _last_checkpoint(Path(settings["output"]))
    trainer = SFTTrainer(
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[OnDemand(answers)],
        **load(settings),
    )
    names = ["trl", "torch", "transformers", "peft", "bitsandbytes"]
    if settings["unsloth"]:
        names.append("unsloth")
    adapters = {str(p.dtype) for p in trainer.model.parameters() if p.requires_grad}
    versions = {**{name: version(name) for name in names}, "adapters": sorted(adapters)}
    send({"versions": versions, "steps": answers})
    trainer.train(resume_from_checkpoint=checkpoint)
    if settings.get("save"):
        trainer.save_model(settings["save"])
        send({"saved": settings["save"]})


if __name__ == "__main__":
    main()
