"""Training side by side with TRL's SFTTrainer, the report's trainer: rows per CPU second on the embedded model.

    python -m benchmarks.train --against trl        # the report's settings: 2 x 4 padded rows, loss on all tokens
    python -m benchmarks.train --against trl-best   # its best honest ones: 8 rows, loss on the completion alone
    python -m benchmarks.train --against matmul     # the matrix products that a step of ours cannot avoid

Both sides train SmolLM2-135M in NF4 with LoRA r 32 on all seven projections and 8-bit AdamW, one thread, on the same
texts, 8 rows a step. Steps alternate, so that a machine that slows down slows both; the figure is the median of the
pairs' ratios of CPU seconds. TRL runs in its own environment, which the first call makes under `benchmarks/work`.
Writes `benchmarks/results/train_AGAINST.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.measure import RESULTS, SEED, spread
from benchmarks.splits import machine
from mv_lightning.atomic import write_json

ROOT = Path(__file__).parent.parent
WORK = ROOT / "benchmarks" / "work"
PEERS = WORK / "peers"
PACKAGES = ("trl==1.16.0",)
ROWS, STEP_ROWS, RANK = 400, 8, 32
PROMPT = "detailed"


def peer_python() -> Path:
    """Return the interpreter of the peers' environment, made on first use.

    Its PyTorch is the one that is installed here, so that both sides multiply alike.
    """
    python = PEERS / "bin" / "python"
    if not (PEERS / "ready").is_file():
        print("Installing the peers, once ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        same = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers", "peft", "bitsandbytes")]
        for packages in (same[:1], [*same, *PACKAGES, "accelerate", "datasets"]):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        (PEERS / "ready").touch()
    return python


class Ours:
    """The package's training step on packed rows."""

    def __init__(self) -> None:
        """Load the model and encode the rows."""
        import torch

        from mv_lightning.data.encoding import encode_rows, verdict_token_ids
        from mv_lightning.data.prompts import load_prompt
        from mv_lightning.data.sources import load_source
        from mv_lightning.model import adapters, base, optim
        from mv_lightning.schema import TEXT_COLUMNS

        settings = base.BaseSettings(name=base.EMBEDDED, gradient_checkpointing=False)
        tokenizer = base.load_tokenizer(settings)
        source = load_source(f"sample:{ROWS}")
        columns = {name: source.table[name][:] for name in TEXT_COLUMNS}
        prompt = load_prompt(PROMPT)
        self.encoded = encode_rows(columns, source.labels_N, np.arange(ROWS), prompt, tokenizer, 2048)
        self.verdict_ids = verdict_token_ids(tokenizer)
        torch.manual_seed(SEED)
        self.adapted = adapters.attach(
            base.load_base(settings, torch.bfloat16, torch.device("cpu")), adapters.LoraSettings(r=RANK, alpha=RANK)
        )
        self.trained = list(adapters.trained_parameters(self.adapted).values())
        self.optimizer = optim.build_optimizer(self.trained, optim.OptimSettings())
        self.order = np.random.default_rng(SEED).permutation(ROWS)

    def batch(self, step: int) -> Any:
        """Return the packed rows of a step."""
        from mv_lightning.data.batching import pack

        return pack(self.encoded, self.order[step * STEP_ROWS : (step + 1) * STEP_ROWS], STEP_ROWS)

    def step(self, step: int) -> float:
        """Train on the rows of a step; return CPU seconds."""
        import torch

        from mv_lightning.model import verdict

        start = time.process_time()
        batch, model = self.batch(step), self.adapted.get_base_model()
        with torch.autocast("cpu", torch.bfloat16):
            hidden_TD = verdict.hidden_states(model, batch)
            loss_B = verdict.verdict_loss(hidden_TD, model.lm_head, batch, self.verdict_ids)
        loss_B.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start

    def write_texts(self, path: Path) -> None:
        """Write the rows in the order of training, as prompt and completion, for a peer."""
        from mv_lightning.data.prompts import VERDICTS, load_prompt
        from mv_lightning.data.sources import load_source

        source, prompt = load_source(f"sample:{ROWS}"), load_prompt(PROMPT)
        assert source.labels_N is not None
        with path.open("w", encoding="utf-8") as lines:
            for row in self.order.tolist():
                text = prompt.instruction + prompt.body.format_map(source.table[row]) + prompt.cue
                lines.write(json.dumps({"prompt": text, "completion": VERDICTS[bool(source.labels_N[row])]}) + "\n")

    def products(self, step: int) -> float:
        """Return the CPU seconds of the matrix products that the step of these rows cannot avoid."""
        import torch
        from peft.tuners.lora import LoraLayer

        batch = self.batch(step)
        tokens, layers = len(batch.ids_T), [m for m in self.adapted.modules() if isinstance(m, LoraLayer)]
        config = self.adapted.get_base_model().config
        prefix, heads, size = batch.packing.prefix, config.num_attention_heads, config.head_dim

        def matrix(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, dtype=torch.bfloat16)

        # One set of operands a shape; a product's time does not depend on its numbers.
        shapes = {(layer.in_features, layer.out_features) for layer in layers}
        kept = {
            (i, o): (matrix(tokens, i), matrix(o, i), matrix(tokens, o), matrix(RANK, i), matrix(o, RANK))
            for i, o in shapes
        }
        low = matrix(tokens, RANK)
        spans = [(prefix, prefix), *((length, prefix + length) for length in batch.packing.lengths)]
        attention = [
            (matrix(heads, q, size), matrix(heads, k, size), matrix(heads, q, k), matrix(heads, q, size))
            for q, k in spans
        ]
        start = time.process_time()
        for layer in layers:
            x, w, grad, a, b = kept[layer.in_features, layer.out_features]
            # forward, input gradient; the adapter's two products, and their two gradients each
            _ = x @ w.T, grad @ w, x @ a.T, low @ b.T, grad @ b, low @ a, low.T @ x, grad.T @ low
        for _ in range(config.num_hidden_layers):
            for query, key, weights, grad in attention:
                # scores, values; gradients of values, weights, queries, keys
                _ = query @ key.mT, weights @ key, weights.mT @ grad, grad @ key.mT, weights @ key, weights.mT @ query
        return time.process_time() - start


class Peer:
    """TRL in a process of its own, which takes a step whenever it is told to."""

    def __init__(self, settings: str, texts: Path) -> None:
        """Start it and wait until it is ready.

        Args:
            settings: `trl` or `trl-best`.
            texts: See `Ours.write_texts`.
        """
        from mv_lightning.model.base import EMBEDDED, BaseSettings, load_tokenizer

        folder = load_tokenizer(BaseSettings(name=EMBEDDED)).name_or_path
        script = Path(__file__).with_name("peer_trl.py")
        self.log = (WORK / f"{settings}.log").open("w")
        self.process = subprocess.Popen(
            [str(peer_python()), str(script), settings, folder, str(texts), str(WORK / "trl"), str(RANK)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        self._answers = self._read()
        self.versions = next(self._answers)

    def step(self) -> dict[str, float]:
        """Let it take one optimizer step; return its CPU seconds, wall seconds and rows."""
        self._stdin.write("step\n")
        self._stdin.flush()
        return next(self._answers)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def _read(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        raise RuntimeError(f"the peer stopped; see {self.log.name}")


def main() -> None:
    """Alternate, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", choices=["trl", "trl-best", "matmul"], required=True)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    WORK.mkdir(exist_ok=True)
    ours = Ours()
    measured: list[dict[str, Any]] = []
    results: dict[str, Any] = {"against": options.against, "machine": machine(), "seed": SEED, "rank": RANK}
    other: Callable[[int], dict[str, float]]
    if options.against == "matmul":

        def other(step: int) -> dict[str, float]:
            return {"cpu_s": ours.products(step)}
    else:
        ours.write_texts(WORK / "texts.jsonl")
        peer = Peer(options.against, WORK / "texts.jsonl")
        results["peer"] = peer.versions

        def other(step: int) -> dict[str, float]:
            return peer.step()

    for step in range(options.pairs + 1):
        start = time.perf_counter()
        cpu = ours.step(step)
        pair: dict[str, Any] = {"ours_cpu_s": cpu, "ours_wall_s": time.perf_counter() - start, "other": other(step)}
        pair["ratio"] = pair["other"]["cpu_s"] / cpu
        print(json.dumps(pair), flush=True)
        if step:  # the first pair warms up
            measured.append(pair)
    results["pairs"] = measured
    results["ratio"] = spread([pair["ratio"] for pair in measured])
    write_json(RESULTS / f"train_{options.against.replace('-', '_')}.json", results)
    print(f"{options.against}: ratio of CPU seconds a step {results['ratio']}")
    if options.against != "matmul":
        peer.stop()


if __name__ == "__main__":
    main()
