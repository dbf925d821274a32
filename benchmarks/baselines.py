"""Environments of the training libraries that the benchmarks compare with, at pinned versions.

    python -m benchmarks.baselines [trl | unsloth]

TRL shares the versions of PyTorch, transformers, PEFT and bitsandbytes with the environment that
this runs in, so that both sides of a comparison use the same kernels and differ only in how they
call them. Unsloth brings its own versions and needs a GPU. The environments are created in
`benchmarks/work`; the commands that need TRL install it themselves, except `benchmarks.gpu`. If the
current environment has the library, it is used.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import WORK
from mv_lightning.atomic import atomic_file
from mv_lightning.data.prompts import Prompt

if TYPE_CHECKING:
    from datasets import Dataset

SHARED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
LIBRARIES: dict[str, tuple[str, ...]] = {
    "trl": ("trl==1.16.0",),
    "unsloth": ("unsloth==2026.10.9",),
}
READY = "ready.json"
"""File in an environment's folder that says what was installed, once all of it was."""
REPORT = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": True,
}
"""Arguments of SFTConfig: the report's settings, with the loss on every token."""
CHECKPOINT_STEPS = 5
"""Optimizer steps between two checkpoints of a training whose adapter is saved."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment variables of processes that are measured: everything they read is on the disk."""


def installed_python(library: str) -> Path | None:
    """Return the interpreter that can import a library, or None if it must be installed first.

    Args:
        library: A key of `LIBRARIES`.
    """
    if importlib.util.find_spec(library) is not None:
        return Path(sys.executable)
    folder = _environment_folder(library)
    ready = folder / READY
    if ready.is_file() and json.loads(ready.read_text(encoding="utf-8")) == _requirements(library):
        return folder / "bin" / "python"
    return None


def library_python(library: str) -> Path:
    """Return the interpreter of a library's environment, after creating it on the first call.

    Args:
        library: A key of `LIBRARIES`.

    Raises:
        RuntimeError: The library cannot be installed; the message ends with pip's.
    """
    if installed := installed_python(library):
        return installed
    folder, requirements = _environment_folder(library), _requirements(library)
    python = folder / "bin" / "python"
    print(f"Installing {library} into {folder}, once ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{library} cannot be installed here: {done.stderr.strip()[-300:]}")
    (folder / READY).write_text(json.dumps(requirements) + "\n", encoding="utf-8")
    return python


def _environment_folder(library: str) -> Path:
    return WORK / "baselines" / library


def _requirements(library: str) -> list[str]:
    requirements = [*LIBRARIES[library]]
    if library == "trl":
        # Of a local version such as 2.13.0+cpu, the index has the part before the plus sign.
        requirements += [f"{name}=={version(name).split('+')[0]}" for name in SHARED]
    return requirements


def write_texts(
    path: Path, prompt: Prompt, table: Dataset, labels_N: np.ndarray, rows_N: np.ndarray
) -> None:
    """Write rows as the prompts and completions that `benchmarks.baseline_sft` trains on.

    Args:
        path: JSON lines.
        prompt: Their wording.
        table: Questions, answers and solutions of a source.
        labels_N: bool [N], of all rows of the source.
        rows_N: int64, the rows to write, in the order of training.
    """
    with atomic_file(path) as tmp_path, tmp_path.open("w", encoding="utf-8") as lines:
        for row in rows_N.tolist():
            text = prompt.instruction + prompt.body.format_map(table[row]) + prompt.cue
            completion = prompt.verdicts[int(labels_N[row])]
            lines.write(json.dumps({"prompt": text, "completion": completion}) + "\n")


class BaselineTrainer:
    """`benchmarks.baseline_sft` as a child process in the environment of TRL or Unsloth.

    It does one optimizer step for every line on its standard input and answers each with one line
    of JSON; the first answer says that it is ready. Its other output goes to a log file.

    Attributes:
        versions: Of the libraries, and the dtype of the adapters.
        steps: The answers of the steps that are done, of an earlier process too.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        """Start the process and wait until it is ready.

        Args:
            name: Name of its log file and its output folder.
            settings: What `benchmarks.baseline_sft` reads.

        Raises:
            RuntimeError: It cannot be installed, or stopped before it was ready.
        """
        WORK.mkdir(exist_ok=True)
        self.log = WORK / f"{name}.log"
        library = "unsloth" if settings.get("unsloth") else "trl"
        arguments = json.dumps({"output": str(WORK / name), **settings})
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [str(library_python(library)), "-u", "-m", "benchmarks.baseline_sft", arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[1],
                env={**os.environ, **OFFLINE},
            )
        ready = self._answer()
        self.versions: dict[str, Any] = ready["versions"]
        self.steps: list[dict[str, Any]] = ready["steps"]

    def step(self) -> dict[str, Any]:
        """Do the next optimizer step; return its cost, its loss and its memory.

        Raises:
            RuntimeError: The process stopped.
        """
        stdin = _pipe(self._process.stdin)
        stdin.write("step\n")
        stdin.flush()
        self.steps.append(self._answer())
        return self.steps[-1]

    def finish(self) -> None:
        """Wait until the adapter is saved, after the last step.

        Raises:
            RuntimeError: The process stopped before.
        """
        self._answer()
        self._process.wait()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        for line in _pipe(self._process.stdout):
            if line.startswith('{"answer": '):
                answer: dict[str, Any] = json.loads(line)["answer"]
                return answer
        last = "".join(self.log.read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
        raise RuntimeError(f"the baseline stopped. The end of {self.log}:\n{last}")


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def main() -> None:
    """Install a library's environment and print the path of its interpreter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", choices=list(LIBRARIES), nargs="?", default="trl")
    print(library_python(parser.parse_args().library))


if __name__ == "__main__":
    main()
