"""A tiny model and helpers for tests and benchmarks; nothing in the package imports this module.

The tiny run is real in every part: a Llama with its own BPE tokenizer, quantised, adapted and
trained.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mv_lightning.artifacts.layout import RunFolder
from mv_lightning.experiments.child_run import KILLED, check_status, run_child, wait_for

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    [
        "lightning.pytorch.cli",
        "mv_lightning.training.module",
        "mv_lightning.training.datamodule",
        "peft",
        "datasets",
    ]
)


def save_tiny_base(folder: Path) -> None:
    """Save a Llama of two layers with grouped queries, and a tokenizer with special tokens.

    Args:
        folder: A new folder.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    line = (
        "The verdict is True. The verdict is False. "
        "Question Solution answer 0 1 2 3 4 5 6 7 8 9 + - * /"
    )
    bpe.train_from_iterator(
        [line] * 30,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<|eot|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<|eot|>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tiny_summarizer(base: Path, folder: Path) -> None:
    """Save a T5 of one layer and random weights, with the tokenizer of a base.

    Args:
        base: The folder that `save_tiny_base` saved to.
        folder: A new folder.
    """
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(base, pad_token="<s>", model_max_length=64)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=1,
            num_heads=4,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_options(base: Path, run: Path) -> list[str]:
    """Return the options with which a command finishes in seconds.

    Args:
        base: The folder that `save_tiny_base` saved to.
        run: The run's folder.
    """
    return shlex.split(
        f"--model.base.name {base} --model.base.gradient_checkpointing true --model.lora.r 32 "
        "--data.source synthetic:120 --data.splits.rows 32 --data.splits.val_fraction 0.25 "
        "--data.splits.test_rows 16 --data.batch_size 2 "
        "--trainer.accelerator cpu --trainer.accumulate_grad_batches 2 "
        "--trainer.enable_progress_bar false --trainer.enable_model_summary false "
        f"--run.dir {run} --run.eval_every 2 --run.save_every 2"
    )


def run_command(*args: str) -> str:
    """Run a command in a new process of one thread, and return its output.

    Args:
        args: The command and its options.

    Raises:
        ValueError: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        check_status(args, run_child(args, log, threads=1), log)
        return log.read_text(encoding="utf-8")


def fork_child(args: Sequence[str], log: Path, kill_when: Callable[[], bool] | None = None) -> int:
    """Run a command as `run_child` does, forked from a server with the libraries loaded.

    It starts in milliseconds instead of seconds, which many kills need.

    Args:
        args: The command and its options.
        log: File that the output is appended to.
        kill_when: Checked continually; the process is killed once it returns True.

    Returns:
        The exit status; `KILLED` for a process that was killed.
    """
    process = _FORK_SERVER.Process(target=_run_here, args=(list(args), str(log)))
    process.start()
    return wait_for(lambda: process.exitcode, process.kill, kill_when)


def fork_processes(
    args: Sequence[str],
    world: int,
    folder: Path,
    kill: tuple[int, Callable[[], bool]] | None = None,
) -> list[int]:
    """Run a command in several processes of one run, with the environment that torchrun gives.

    Args:
        args: The command and its options.
        world: Number of processes.
        folder: The output of process R is appended to `rankR.log` in it.
        kill: A process, and what is checked continually; it is killed once this returns True.

    Returns:
        The exit status of each process; `KILLED` for one that was killed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        env = {
            **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"},
            **{"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0"},
            **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
        }
        target = (list(args), str(folder / f"rank{rank}.log"), env)
        processes.append(_FORK_SERVER.Process(target=_run_here, args=target))
        processes[-1].start()
    killed, kill_when = kill or (0, None)
    wait_for(lambda: processes[killed].exitcode, processes[killed].kill, kill_when)
    statuses = []
    for process in processes:
        process.join()
        assert process.exitcode is not None
        statuses.append(process.exitcode)
    return statuses


def run_forked(args: Sequence[str], log: Path, kill_when: Callable[[], bool] | None = None) -> bool:
    """Run a command with `fork_child`.

    Args:
        args: The command and its options.
        log: File that the output is appended to.
        kill_when: Checked continually; the process is killed once it returns True.

    Returns:
        Whether the process was killed.

    Raises:
        ValueError: The command failed.
    """
    status = fork_child(args, log, kill_when)
    check_status(args, status, log)
    return status == KILLED


def batches_done(run: Path) -> int:
    """Count the batches in the journals of a prediction, without an incomplete last line.

    Args:
        run: The run's folder.
    """
    lines = [journal.read_bytes().count(b"\n") for journal in RunFolder(run).journals()]
    return sum(max(0, count - 1) for count in lines)  # the first line describes the prediction


def predict_with_kills(args: Sequence[str], run: Path, marks: list[int]) -> list[dict[str, Any]]:
    """Predict, killed whenever the next mark is passed, until the prediction is complete.

    Args:
        args: A predict command that writes to `run`.
        run: The run's folder.
        marks: Batches done at which to kill, ascending. A mark that was passed before its turn
            waits for one more batch.

    Returns:
        For each process that was killed: `batches` in the journals then, and `torn`, whether the
        last line of one is incomplete.
    """
    kills: list[dict[str, Any]] = []
    for mark in marks:
        due = max(mark, batches_done(run) + 1)
        if not run_forked(args, run / "log.txt", _at_least(due, run)):
            return kills
        journals = [journal.read_bytes() for journal in RunFolder(run).journals()]
        torn = any(not content.endswith(b"\n") for content in journals)
        kills.append({"batches": batches_done(run), "torn": torn})
    run_forked(args, run / "log.txt")
    return kills


def _at_least(batches: int, run: Path) -> Callable[[], bool]:
    return lambda: batches_done(run) >= batches


def _run_here(args: list[str], log: str, env: Mapping[str, str] | None = None) -> None:
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from mv_lightning.cli import main

    if env is not None:
        os.environ.update(env)
        rank_zero_only.rank = int(env["RANK"])  # the server imported Lightning without it
    # Sums are split over the threads, so the number of threads shows in the last bits.
    torch.set_num_threads(1)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        for stream in (1, 2):  # the descriptors themselves: the server's loggers hold its streams
            os.dup2(file.fileno(), stream)
    main(args)
