"""TRL's SFTTrainer, a step at a time; run by `benchmarks.train` in the peers' environment.

python peer_trl.py trl|trl-best MODEL_FOLDER TEXTS_JSONL OUTPUT_FOLDER RANK
"""

import json
import sys
import time
from importlib.metadata import version

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(1)
settings, folder, texts, output, rank = sys.argv[1:]
best = settings == "trl-best"


class OnDemand(TrainerCallback):
    """Waits for a line before each optimizer step and reports after it."""

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        """Wait, then start the clocks."""
        if not sys.stdin.readline():
            sys.exit()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        """Report."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall, "rows": 8}), flush=True)


quantization = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
)
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.bfloat16, quantization_config=quantization, device_map={"": "cpu"}
)
for module in model.modules():  # else bitsandbytes may repack the weights and lose gradients
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
rows = load_dataset("json", data_files=texts, split="train", cache_dir=output)
if not best:
    rows = rows.map(lambda row: {"text": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"])
config = SFTConfig(
    output_dir=output,
    per_device_train_batch_size=8 if best else 2,
    gradient_accumulation_steps=1 if best else 4,
    gradient_checkpointing=not best,
    completion_only_loss=best,
    max_length=2048,
    optim="adamw_8bit",
    learning_rate=1e-4,
    weight_decay=0.01,
    max_grad_norm=1.0,
    lr_scheduler_type="linear",
    warmup_steps=10,
    max_steps=40,
    bf16=True,
    use_cpu=True,
    report_to=[],
    logging_steps=1000,
    save_strategy="no",
    disable_tqdm=True,
    dataloader_num_workers=0,
)
lora = LoraConfig(
    r=int(rank),
    lora_alpha=int(rank),
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    task_type="CAUSAL_LM",
)
trainer = SFTTrainer(
    model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora, callbacks=[OnDemand()]
)
print(
    json.dumps({name: version(name) for name in ("trl", "torch", "transformers", "peft", "bitsandbytes")}), flush=True
)
trainer.train()
