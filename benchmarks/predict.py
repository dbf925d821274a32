"""Prediction side by side: rows per CPU second on the embedded model, one thread.

    python -m benchmarks.predict --against padded     # plain forward, padded batches of 16, sorted by length
    python -m benchmarks.predict --against generate   # the report's loop: padded batches of 16, up to 64 new tokens

Ours are packed batches behind the shared instruction. Both sides ask the same NF4 model with the same adapter about the
same practice rows, a share of them at a time in turn; the figure is the median of the shares' ratios of CPU seconds.
Also counted: verdicts that differ between the two, and between our batches of one row and of many. Writes
`benchmarks/results/predict_AGAINST.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from benchmarks.measure import RESULTS, SEED, spread
from benchmarks.splits import machine
from benchmarks.train import PROMPT, RANK
from mv_lightning.atomic import write_json
from mv_lightning.data.batching import EVAL_TOKENS, PackedRows, evaluation_picks, pack
from mv_lightning.data.encoding import encode_rows, verdict_token_ids
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.model import adapters, base, generate, verdict
from mv_lightning.schema import TEXT_COLUMNS, Batch, EncodedRows

PADDED = 16


class Model:
    """A quantised base with an adapter that matters, and the two ways of asking it."""

    def __init__(self, rows: int) -> None:
        """Load the model and encode practice rows.

        Args:
            rows: How many.
        """
        settings = base.BaseSettings(name=base.EMBEDDED, gradient_checkpointing=False)
        self.tokenizer = base.load_tokenizer(settings)
        source = load_source(f"sample:{rows}")
        columns = {name: source.table[name][:] for name in TEXT_COLUMNS}
        self.encoded = encode_rows(columns, None, np.arange(rows), load_prompt(PROMPT), self.tokenizer, 2048)
        self.verdict_ids = verdict_token_ids(self.tokenizer)
        torch.manual_seed(SEED)
        loaded = base.load_base(settings, torch.bfloat16, torch.device("cpu"))
        adapted = adapters.attach(loaded, adapters.LoraSettings(r=RANK, alpha=RANK))
        for name, parameter in adapters.trained_parameters(adapted).items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        self.causal = adapted.eval().get_base_model()

    def ours(self, rows_N: np.ndarray, tokens: int = EVAL_TOKENS) -> np.ndarray:
        """Return log-odds [N] of packed batches.

        Args:
            rows_N: int [N], which rows.
            tokens: Most tokens of a batch.
        """
        part = _select(self.encoded, rows_N)
        packed, odds_N = PackedRows(part), np.empty(len(rows_N))
        for pick in evaluation_picks(part.lengths_N, len(part.prefix_ids), tokens):
            odds_N[list(pick.indices)] = self._odds(packed[pick])
        return odds_N

    def padded(self, rows_N: np.ndarray) -> np.ndarray:
        """Return log-odds [N] of padded batches, sorted by length, with PyTorch's own attention."""
        order = rows_N[np.argsort(-self.encoded.lengths_N[rows_N], kind="stable")]
        found: dict[int, float] = {}
        self.causal.set_attn_implementation("sdpa")
        for start in range(0, len(order), PADDED):
            rows = order[start : start + PADDED]
            texts = [[*self.encoded.prefix_ids, *self._ids(row)] for row in rows]
            longest = max(map(len, texts))
            ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
            mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
            hidden = self.causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = torch.tensor([len(text) - 1 for text in texts])
            logits = self.causal.lm_head(hidden[torch.arange(len(rows)), last])[:, list(self.verdict_ids)].float()
            found |= dict(zip(rows.tolist(), (logits[:, 1] - logits[:, 0]).tolist(), strict=True))
        self.causal.set_attn_implementation("mv_lightning_packed")
        return np.array([found[row] for row in rows_N.tolist()])

    def generated(self, rows_N: np.ndarray) -> np.ndarray:
        """Return 1, -1 or 0 [N]: True, False or neither in the text that the model writes."""
        odds = []
        for start in range(0, len(rows_N), PADDED):
            batch = pack(self.encoded, rows_N[start : start + PADDED], PADDED)
            new_BW = generate.generate(self.causal, batch, self.tokenizer.eos_token_id)
            odds.append(generate.verdict_odds(self.tokenizer.batch_decode(new_BW, skip_special_tokens=True)))
        return torch.cat(odds).numpy()

    def _odds(self, batch: Batch) -> np.ndarray:
        hidden_TD = verdict.hidden_states(self.causal, batch)
        return verdict.log_odds(hidden_TD, self.causal.lm_head, batch, self.verdict_ids).numpy()

    def _ids(self, row: int) -> list[int]:
        start, stop = self.encoded.starts_N[row : row + 2]
        ids: list[int] = self.encoded.ids_T[start:stop].tolist()
        return ids


def _select(encoded: EncodedRows, rows_N: np.ndarray) -> EncodedRows:
    ids = [encoded.ids_T[encoded.starts_N[row] : encoded.starts_N[row + 1]] for row in rows_N]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    return EncodedRows(
        np.concatenate(ids), starts, encoded.labels_N[rows_N], rows_N, encoded.cut_N[rows_N], encoded.prefix_ids
    )


def main() -> None:
    """Alternate, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", choices=["padded", "generate"], required=True)
    parser.add_argument("--shares", type=int, default=5)
    parser.add_argument("--rows", type=int, default=32, help="of a share")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(options.rows * (options.shares + 1))
    other = model.padded if options.against == "padded" else model.generated
    measured: list[dict[str, Any]] = []
    flips = alone_flips = 0
    largest = 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for share in range(options.shares + 1):
            rows_N = np.arange(share * options.rows, (share + 1) * options.rows)
            clocks = [time.process_time()]
            ours_N = model.ours(rows_N)
            clocks.append(time.process_time())
            other_N = other(rows_N)
            clocks.append(time.process_time())
            ours, theirs = np.diff(clocks).tolist()
            pair = {"ours_cpu_s": ours, "other_cpu_s": theirs, "ratio": theirs / ours}
            print(json.dumps(pair), flush=True)
            if not share:  # warms up
                continue
            measured.append(pair)
            flips += int(((ours_N > 0) != (other_N > 0)).sum())
            alone_N = model.ours(rows_N, tokens=1)
            alone_flips += int(((ours_N > 0) != (alone_N > 0)).sum())
            largest = max(largest, float(np.abs(ours_N - alone_N).max()))
    results = {
        "against": options.against,
        "machine": machine(),
        "rows": options.rows * options.shares,
        "pairs": measured,
        "ratio": spread([pair["ratio"] for pair in measured]),
        "verdicts_that_differ": flips,
        "verdicts_that_differ_alone": alone_flips,
        "largest_change_alone": largest,
    }
    write_json(RESULTS / f"predict_{options.against}.json", results)
    print({name: value for name, value in results.items() if name not in ("pairs", "machine")})


if __name__ == "__main__":
    main()
