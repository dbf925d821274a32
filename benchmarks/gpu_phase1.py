"""Phase 1 at the real size without a download: Llama-3-8B of random weights, NF4, r 128, rows of 2,048 tokens.

    python -m benchmarks.gpu_phase1 [--steps 20]

Speed and memory do not depend on the values of the weights. The base is built from its config layer by layer; the
tokenizer is that of the embedded model, whose ids lie within Llama's vocabulary. Needs one GPU; writes
`benchmarks/results/gpu_phase1.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.llama import LLAMA_3_8B, write_base
from mv_lightning.atomic import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gpu_phase1.json"


def write_inputs(folder: Path, rows: int) -> None:
    """Write the base folder (config and tokenizer) and rows whose solutions fill the 2,048 tokens."""
    from mv_lightning.data.sample import sample_table

    write_base(folder / "base", LLAMA_3_8B)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in sample_table("train", rows, seed=3407).to_pylist():
            row["solution"] = f"{row['solution']}\n" * (8_000 // len(row["solution"]))
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Run the phase as a user would and record what its summary says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps

    import torch

    if not torch.cuda.is_available():
        sys.exit("error: this benchmark needs a GPU, and PyTorch sees none")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, rows=400)
        command = [
            *(sys.executable, "-m", "mv_lightning", "fit", "--config", "configs/phase1.yaml"),
            *("--model.base.name", str(folder / "base"), "--model.base.weights", "random"),
            *(
                "--data.source",
                str(folder / "rows.jsonl"),
                "--data.splits.rows",
                "100",
                "--data.splits.test_rows",
                "40",
            ),
            *("--data.splits.val_fraction", "0.04", "--trainer.max_steps", str(steps), "--trainer.max_epochs", "-1"),
            *("--run.dir", str(folder / "run"), "--run.eval_every", "1000000"),
        ]
        subprocess.run(command, cwd=ROOT, check=True)
        summary = json.loads((folder / "run" / "phase1" / "summary.json").read_text(encoding="utf-8"))
    seconds = summary["minutes"] * 60
    write_json(
        RESULTS,
        {
            "gpu": torch.cuda.get_device_name(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "lightning")},
            "batch_size x accumulation": "2 x 4",
            "steps": summary["steps"],
            "rows": summary["rows"],
            "peak_memory_gb": summary["peak_memory_gb"],
            "rows_per_s": summary["rows"] / seconds,
            "tokens_per_s": summary["tokens"] / seconds,
        },
    )
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
