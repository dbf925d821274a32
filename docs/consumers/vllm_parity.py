"""Compare the log-odds of vLLM with those of the verifier. NOT RUN YET: it needs a GPU.

python docs/consumers/vllm_parity.py ADAPTER ROWS.jsonl REWARD_MODEL
python docs/consumers/vllm_parity.py ADAPTER ROWS.jsonl MERGED

A folder of `export --format reward-model` is a sequence classifier that vLLM reads as it is. One of
`--format merged` becomes a classifier made of two tokens (`classifier_from_token`).
"""

# %% The rows, and what the verifier says about them.
import json
import sys
from pathlib import Path

import numpy as np
from transformers import AutoConfig, AutoTokenizer
from vllm import LLM, PoolingParams, TokensPrompt
from vllm.config import PoolerConfig

from mv_lightning import Verifier
from mv_lightning.data.encoding import verdict_token_ids

adapter, rows_file, folder = sys.argv[1:4]
rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
verifier = Verifier.load(adapter)
calibration = verifier.calibration
expected_N, encoded = verifier.log_odds(rows), verifier.encode(rows)
token_ids = [[*encoded.prefix_ids, *encoded.row(index).tolist()] for index in range(len(encoded))]
verdict_ids = verdict_token_ids(verifier.tokenizer, verifier.prompt)
del verifier

# %% The engine. `logit_mean` and `logit_sigma` (vLLM 0.19 or later) calibrate the logits of the
# merged model; those of the reward model are calibrated.
architecture = AutoConfig.from_pretrained(folder).architectures[0]
options = {}
if architecture.endswith("ForCausalLM"):
    options["pooler_config"] = PoolerConfig(logit_sigma=calibration.temperature)
    options["hf_overrides"] = {
        "architectures": [architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "classifier_from_token": AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(
            verdict_ids
        ),
        "method": "from_2_way_softmax",
    }
engine = LLM(folder, runner="pooling", dtype="bfloat16", **options)

# %% Without the activation, the outputs are logits.
prompts = [TokensPrompt(prompt_token_ids=ids) for ids in token_ids]
outputs = engine.classify(prompts, pooling_params=PoolingParams(use_activation=False))
got_N = np.array([output.outputs.probs[0] for output in outputs])

# %% The comparison.
flips = np.count_nonzero((got_N > calibration.threshold) != (expected_N > calibration.threshold))
largest = np.abs(got_N - expected_N).max()
print(f"{len(rows)} rows, {flips} verdicts differ, log-odds by {largest:.3f} at most")
