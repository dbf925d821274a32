"""TRL's SFTTrainer, one optimizer step at a time; started by `benchmarks.baselines.Peer` in a peer's environment.

Its only argument is JSON: `model` (folder), `random` (fill its shape with random weights), `unsloth` (load and adapt
the model with Unsloth), `texts` (JSON lines of prompt and completion, in the order of training), `split_text` (keep
the two apart), `output` (folder), `rank`, `steps`, `optim` (learning rate and warm-up) and `config` (what of SFTConfig
a comparison wants).
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

if json.loads(sys.argv[1])["unsloth"]:
    import_module("unsloth")  # it wants to be imported before what it changes

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.measure import SEED, Clock
from mv_lightning.model.adapters import TARGETS
from mv_lightning.model.base import BaseSettings, load_base
from mv_lightning.model.quantization import quantization_config

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
MOST_TOKENS = 2_048


def say(answer: dict[str, Any]) -> None:
    """Answer the process that started this one."""
    print(json.dumps({"peer": answer}), flush=True)


class OnDemand(TrainerCallback):
    """Waits for a line before each optimizer step, and answers it when the step is logged.

    Reading and collating the rows comes before, and is not on the clock.
    """

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Wait, then start the clock."""
        if not sys.stdin.readline():
            sys.exit()
        self._clock = Clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Read the clock: logging is not counted."""
        self._cost = self._clock.read()

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Answer."""
        if "loss" in logs:
            peak = torch.cuda.max_memory_allocated() / 1e9 if GPU else None
            say(
                {
                    **self._cost,
                    "loss": float(logs["loss"]),
                    "tokens_so_far": logs.get("num_tokens"),
                    "peak_gb": peak,
                }
            )


def load(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what SFTTrainer is to be given: the base in NF4 with its adapters, or with how to adapt it."""
    folder, rank = settings["model"], settings["rank"]
    if settings["unsloth"]:
        unsloth: Any = import_module("unsloth").FastLanguageModel
        model, tokenizer = unsloth.from_pretrained(
            folder, max_seq_length=MOST_TOKENS, load_in_4bit=True
        )
        adapted = unsloth.get_peft_model(
            model,
            r=rank,
            lora_alpha=rank,
            target_modules=list(TARGETS),
            use_gradient_checkpointing="unsloth",
            random_state=SEED,
        )
        return {"model": adapted, "processing_class": tokenizer}
    if settings["random"]:
        random = BaseSettings(name=folder, weights="random", gradient_checkpointing=False)
        model = load_base(random, torch.bfloat16, DEVICE)
        model.set_attn_implementation("sdpa")
    else:
        quantization = quantization_config("nf4", torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, device_map={"": DEVICE}, quantization_config=quantization
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    return {"model": model, "processing_class": tokenizer, "peft_config": lora}


def main() -> None:
    """Set the trainer up as its users do, and train."""
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
        bf16=True,
        use_cpu=not GPU,
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=SEED,
        **settings["optim"],
        **{"max_length": MOST_TOKENS, **settings["config"]},
    )
    trainer = SFTTrainer(
        args=config, train_dataset=Dataset.from_list(rows), callbacks=[OnDemand()], **load(settings)
    )
    names = (
        "trl",
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        *(["unsloth"] if settings["unsloth"] else []),
    )
    adapters = {str(p.dtype) for p in trainer.model.parameters() if p.requires_grad}
    say({**{name: version(name) for name in names}, "adapters": sorted(adapters)})
    trainer.train()


if __name__ == "__main__":
    main()
