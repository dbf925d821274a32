"""Score answers with a pipeline of transformers; mv_lightning is not needed.

python docs/consumers/transformers_pipeline.py REWARD_MODEL ROWS.jsonl
"""

# %% The exported folder, and rows with `question`, `solution` and `answer`.
import json
import sys
from pathlib import Path

from transformers import pipeline

folder, rows_file = sys.argv[1:3]
rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
classifier = pipeline("text-classification", folder)

# %% The folder's chat template writes the verifier's prompt. Without `answer` in the assistant's
# message it takes the answer from the text: \boxed{}, "####", "answer is", or the last number.
conversations = []
for row in rows:
    reply = {"role": "assistant", "content": row["solution"], "answer": row["answer"]}
    conversations.append([{"role": "user", "content": row["question"]}, reply])
texts = classifier.tokenizer.apply_chat_template(conversations, tokenize=False)

# %% `function_to_apply="none"` gives the calibrated log-odds. Without it the score is the
# probability that the answer is correct.
scores = classifier(texts, function_to_apply="none")
log_odds = [score["score"] for score in scores]
threshold = classifier.model.config.decision_threshold
for row, odds in zip(rows, log_odds, strict=True):
    print(f"{odds:8.3f} {odds > threshold!s:5} {row['question'][:60]!r} {row['answer']!r}")
