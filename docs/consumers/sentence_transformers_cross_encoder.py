"""Rank solutions with a CrossEncoder of sentence-transformers; mv_lightning is not needed.

python docs/consumers/sentence_transformers_cross_encoder.py REWARD_MODEL ROWS.jsonl
"""

# %% The exported folder, and rows with `question`, `solution` and `answer`.
import json
import sys
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

folder, rows_file = sys.argv[1:3]
rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
verifier = CrossEncoder(folder)

# %% Conversations go through the folder's chat template, which writes the verifier's prompt.
conversations = []
for row in rows:
    reply = {"role": "assistant", "content": row["solution"], "answer": row["answer"]}
    conversations.append([{"role": "user", "content": row["question"]}, reply])

# %% Without an activation the scores are the calibrated log-odds, with it (the default is the
# sigmoid) the probability that the answer is correct.
log_odds = verifier.predict(conversations, activation_fn=torch.nn.Identity()).tolist()
threshold = verifier.model.config.decision_threshold
for row, odds in zip(rows, log_odds, strict=True):
    print(f"{odds:8.3f} {odds > threshold!s:5} {row['question'][:60]!r} {row['answer']!r}")

# %% Pairs of a question and a solution work, too: the answer is taken from the solution.
question = rows[0]["question"]
solutions = [row["solution"] for row in rows if row["question"] == question]
ranking = verifier.rank(question, solutions)
print(f"best of {len(solutions)} solutions: {solutions[ranking[0]['corpus_id']][:200]!r}")
