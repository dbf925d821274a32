"""Train a policy with the verifier as its reward, by GRPO or RLOO of TRL.

python docs/consumers/trl_rewards.py REWARD_MODEL ADAPTER POLICY ROWS.jsonl OUT [GRPO | RLOO]
"""

# %% Conversational prompts: only then TRL applies the chat template of a reward model.
import json
import sys
from pathlib import Path

import torch
import trl
from datasets import Dataset

from mv_lightning import Verifier

reward_model, adapter, policy, rows_file, out = sys.argv[1:6]
method = (sys.argv[6:] or ["GRPO"])[0]
rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
questions = list(dict.fromkeys(row["question"] for row in rows))
prompts = [[{"role": "user", "content": question}] for question in questions]
dataset = Dataset.from_dict({"prompt": prompts})

# %% Two ways to give the same reward, here both: the exported folder by its name, which needs no
# mv_lightning, and the verifier itself, which computes a question once for all its completions and
# takes any rule that finds the answer (`as_reward_func(extract_answer=...)`). The second has weight
# 0: it is only logged.
reward_funcs = [reward_model, Verifier.load(adapter).as_reward_func()]
config = getattr(trl, f"{method}Config")(
    output_dir=out,
    max_steps=2,
    per_device_train_batch_size=8,
    num_generations=2,
    max_completion_length=24,
    reward_weights=[1.0, 0.0],
    use_cpu=not torch.cuda.is_available(),
    bf16=torch.cuda.is_available(),
    gradient_checkpointing=False,
    log_completions=True,
    num_completions_to_print=0,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
)
trainer = getattr(trl, f"{method}Trainer")(
    model=policy, reward_funcs=reward_funcs, args=config, train_dataset=dataset
)

# %% Subtracting a constant from all rewards changes neither method's advantages, so the reward
# model's `decision_threshold` does not matter here.
trainer.train()
print([log["reward"] for log in trainer.state.log_history if "reward" in log])
