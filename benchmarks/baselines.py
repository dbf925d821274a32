"""The peers' own environment: installed from PyPI at pinned versions, apart from the package's.

    python -m benchmarks.baselines [trl | unsloth]

TRL shares PyTorch, transformers, PEFT and bitsandbytes with the environment that this runs in, so that both sides of a
comparison multiply with the same code and differ in what they ask for. Unsloth brings its own, and needs a GPU. They
lie in `benchmarks/work`; the commands that need TRL install it themselves. A machine that cannot reach PyPI uses the
environment at hand, if that has the peer.
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
from typing import IO, Any

from benchmarks.measure import WORK

SHARED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
PEERS: dict[str, tuple[str, ...]] = {"trl": ("trl==1.16.0",), "unsloth": ("unsloth==2026.10.9",)}
REPORT = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": True,
}
"""Of SFTConfig: the report's settings, with the loss on every token."""


def peer_python(peer: str) -> Path:
    """Return the interpreter of a peer, after installing what it needs on the first call.

    Args:
        peer: A key of `PEERS`.

    Raises:
        RuntimeError: It cannot be installed; the end of pip's words is told.
    """
    if importlib.util.find_spec(peer) is not None:
        return Path(sys.executable)
    folder = WORK / "peers" / peer
    python, ready = folder / "bin" / "python", folder / "ready.json"
    # Of a local version such as 2.13.0+cpu, PyPI knows the part before the plus sign.
    shared = [f"{name}=={version(name).split('+')[0]}" for name in SHARED] if peer == "trl" else []
    wanted = [*shared, *PEERS[peer]]
    if not ready.is_file() or json.loads(ready.read_text(encoding="utf-8")) != wanted:
        print(f"Installing {peer} into {folder}, once ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{peer} cannot be installed here: {done.stderr.strip()[-300:]}")
        ready.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    return python


class Peer:
    """`benchmarks.baseline_sft` in a peer's environment: it takes one optimizer step for every line that it is sent.

    It answers each line with one line of JSON, and says one when it is ready; what else it prints goes to its log.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        """Start it and wait until it is ready.

        Args:
            name: Of its log and its output.
            settings: What `benchmarks.baseline_sft` reads.

        Raises:
            RuntimeError: It cannot be installed, or stopped before it was ready.
        """
        WORK.mkdir(exist_ok=True)
        self.log = WORK / f"{name}.log"
        python = peer_python("unsloth" if settings.get("unsloth") else "trl")
        settings = {**settings, "output": str(WORK / name)}
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [str(python), "-u", "-m", "benchmarks.baseline_sft", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[1],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        self.about = self._answer()

    def step(self) -> dict[str, Any]:
        """Have the next optimizer step taken; return what the script says of it.

        Raises:
            RuntimeError: It stopped.
        """
        stdin = _pipe(self._process.stdin)
        stdin.write("step\n")
        stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        for line in _pipe(self._process.stdout):
            if line.startswith('{"peer": '):
                answer: dict[str, Any] = json.loads(line)["peer"]
                return answer
        last = "".join(self.log.read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
        raise RuntimeError(f"the peer stopped; the end of {self.log}:\n{last}")


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def main() -> None:
    """Install a peer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=list(PEERS), nargs="?", default="trl")
    print(peer_python(parser.parse_args().peer))


if __name__ == "__main__":
    main()
