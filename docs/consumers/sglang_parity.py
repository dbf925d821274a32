"""Compare the log-odds of an SGLang server with those of the verifier. NOT RUN YET: needs a GPU.

python -m sglang.launch_server --model-path REWARD_MODEL --is-embedding --port 30000
python docs/consumers/sglang_parity.py ADAPTER ROWS.jsonl http://127.0.0.1:30000
"""

# %% The rows, and what the verifier says about them.
import json
import sys
import urllib.request
from pathlib import Path

import numpy as np

from mv_lightning import Verifier

adapter, rows_file, server = sys.argv[1:4]
rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
verifier = Verifier.load(adapter)
expected_N, encoded = verifier.log_odds(rows), verifier.encode(rows)
token_ids = [[*encoded.prefix_ids, *encoded.row(index).tolist()] for index in range(len(encoded))]

# %% The server returns the logit as an embedding of one number.
request = urllib.request.Request(
    f"{server}/classify",
    json.dumps({"input_ids": token_ids}).encode(),
    {"Content-Type": "application/json"},
)
with urllib.request.urlopen(request) as response:
    got_N = np.array([result["embedding"][0] for result in json.load(response)])

# %% The comparison.
threshold = verifier.calibration.threshold
flips = np.count_nonzero((got_N > threshold) != (expected_N > threshold))
largest = np.abs(got_N - expected_N).max()
print(f"{len(rows)} rows, {flips} verdicts differ, log-odds by {largest:.3f} at most")
