"""All GPU figures in one call of at most 10 minutes: Llama-3-8B, random weights, NF4, r 128.

    python -m benchmarks.gpu          # needs one GPU of 80 GB
    python -m benchmarks.gpu --tiny   # a small model, also on a CPU: only to check that it runs

Nothing is downloaded (`benchmarks.llama`). Rows have the report's lengths: mean 385 tokens, at
most 1,929. Each stage runs in its own process, so that memory is measured separately and one
failure does not stop the others. It may take half of the time that is left, the last one all of
it. Speeds are medians of the steps 5 to 20, and memory is that of tensors (`peak_gb`) and what
PyTorch reserved for them (`reserved_gb`):

- profile: 30 training steps under torch.profiler: kernels, launches, share of time without a kernel
- package: training with the settings of `configs/h100.yaml`, then with recomputation of every
  layer; writing a checkpoint of the tensors on the GPU; prediction
- phase1: `configs/phase1.yaml` unchanged, 2 x 4 rows of 2,048 tokens with recomputation: the
  report's memory
- trl, unsloth: the report's settings on the rows that the package trains on, in the same order
- generate: prediction by generation, as in the report

TRL and Unsloth are measured where they are installed (`python -m benchmarks.baselines trl`, `...
unsloth`). After every stage its result is written to `STAGE.json` in the folder of the results, or
why there is none: the return code and the end of the log.

On a machine with Python 3.12, PyTorch for CUDA 13.0, transformers, Lightning, PEFT, accelerate,
TensorBoard, pyarrow, pandas and xxhash, but without internet, rows, tokenizer and the other
packages are carried (12.4 MB):

    python -m benchmarks.gpu_inputs carried                # with internet, in this folder
    benchmarks/gpu_wheels.sh carried/wheels
    # copy this folder with `carried` to the GPU machine, and there:
    python3 -m pip install --no-index --no-deps --target carried/site carried/wheels/*.whl
    export PYTHONPATH=carried/site XDG_CACHE_HOME=carried/cache
    python3 -m benchmarks.gpu --rows carried/rows.jsonl --results carried/results
    # copy carried/results/*.json back to benchmarks/results/gpu, and here:
    python -m benchmarks.table --write
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines import LIBRARIES, OFFLINE, installed_python
from benchmarks.gpu_inputs import report_rows, write_rows
from benchmarks.gpu_stages import REAL, SMALL, STAGES
from benchmarks.llama import write_base
from benchmarks.measure import RESULTS, WORK, exit_on_sigterm
from mv_lightning.atomic import write_json

SECONDS = 500
GPU_RESULTS, TINY_RESULTS = RESULTS / "gpu", WORK / "gpu_tiny"
LOG_LINES = 20
"""Lines of a failed stage's log that are kept."""


def run_stages(
    stages: Sequence[str], folder: Path, results: Path, end: float, options: Sequence[str] = ()
) -> list[str]:
    """Run stages one after the other, each as a process; return the names of those that failed.

    Args:
        stages: Keys of `STAGES`.
        folder: With the base and the rows; the stages also write into it.
        results: Folder that gets a file for every stage.
        end: When all must have ended, in seconds of `time.perf_counter`.
        options: Further options of `benchmarks.gpu_stages`.
    """
    failed = []
    for number, stage in enumerate(stages, start=1):
        start = time.perf_counter()
        # A stage that hangs must leave time for the others.
        limit = (end - start) / (2 if number < len(stages) else 1)
        path = results / f"{stage}.json"
        path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.gpu_stages", stage, *options]
        command += ["--folder", str(folder), "--results", str(results)]
        problem = _missing(stage) or run_process(command, WORK / f"gpu_{stage}.log", limit)
        outcome = "done"
        if problem:
            kind, reason = next(iter(problem.items()))
            if path.is_file():
                outcome = f"done, then {reason}"  # its result was complete before
            else:
                write_json(path, problem)
                outcome = f"{kind}: {reason}"
                failed += [stage] * (kind == "failed")
        print(f"{stage}: {outcome}, {time.perf_counter() - start:.0f} s", flush=True)
        print("".join(f"    {line}\n" for line in problem.get("log", [])), end="", flush=True)
    return failed


def run_process(command: Sequence[str], log: Path, limit: float) -> dict[str, Any]:
    """Run a process to its end, or kill it and its children after a time.

    Args:
        command: Program and arguments.
        log: File that gets its output.
        limit: Seconds.

    Returns:
        Nothing after status 0; otherwise `failed` (the reason), `returncode` (None if it was not
        started; as of `subprocess`) and `log` (the end of its output).
    """
    if limit <= 0:
        return {"failed": "no time left", "returncode": None, "log": []}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children end with it
            env={**os.environ, **OFFLINE},
        )
    try:
        print(f"process {process.pid}, at most {limit:.0f} s: {log}", flush=True)
        returncode = process.wait(limit)
        reason = f"return code {returncode}"
    except subprocess.TimeoutExpired:
        reason = f"took more than {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            returncode = process.wait()
    if returncode == 0:
        return {}
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return {"failed": reason, "returncode": returncode, "log": lines[-LOG_LINES:]}


def _missing(stage: str) -> dict[str, Any]:
    """Return why a stage cannot be run here: `skipped` and the reason, or nothing."""
    if stage in LIBRARIES and installed_python(stage) is None:
        return {"skipped": f"not installed; run python -m benchmarks.baselines {stage}"}
    if stage == "unsloth" and not torch.cuda.is_available():
        return {"skipped": "Unsloth needs a GPU"}
    return {}


def _provide_rows(path: Path, given: Path | None, rows: int) -> None:
    if given is None:
        write_rows(path, report_rows(rows))
        return
    with given.open(encoding="utf-8") as lines:
        found = sum(1 for _ in lines)
    if found < rows:
        raise ValueError(
            f"expected at least {rows:,} rows in {given}, got {found:,}. Write the file with "
            "python -m benchmarks.gpu_inputs"
        )
    shutil.copyfile(given, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a small model, on a CPU also")
    parser.add_argument(
        "--rows", type=Path, help="rows.jsonl of benchmarks.gpu_inputs; default: generated"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(STAGES), default=list(STAGES), help="these stages"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"limit of the whole, default {SECONDS}"
    )
    parser.add_argument(
        "--results",
        type=Path,
        help=f"folder of the results, default {GPU_RESULTS}, with --tiny {TINY_RESULTS}",
    )
    return parser


def main() -> None:
    """Run all stages, or some of them."""
    start = time.perf_counter()
    exit_on_sigterm()
    options = _parser().parse_args()
    if not (options.tiny or torch.cuda.is_available()):
        sys.exit("error: this benchmark needs a GPU, and PyTorch sees none. On a CPU, use --tiny")
    size = SMALL if options.tiny else REAL
    results = options.results or (TINY_RESULTS if options.tiny else GPU_RESULTS)
    WORK.mkdir(exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        folder = Path(name)
        write_base(folder / "base", size.shape)
        try:
            _provide_rows(folder / "rows.jsonl", options.rows, size.rows)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {error}")
        stages = [stage for stage in STAGES if stage in options.only]
        end = start + options.seconds
        failed = run_stages(stages, folder, results, end, ["--tiny"] if options.tiny else [])
    print(f"{len(stages)} stages, {time.perf_counter() - start:.0f} s: {results}")
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
