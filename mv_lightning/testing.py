"""The smallest run that is real in every part: a tiny Llama with its own BPE tokenizer, and the options to train it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def save_tiny_base(folder: Path) -> None:
    """Save a Llama of two layers, grouped queries and special tokens like any base model.

    Args:
        folder: Where to.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    corpus = [
        "The verdict is True. The verdict is False. Question Solution answer 0 1 2 3 4 5 6 7 8 9 + - * /"
    ] * 30
    bpe.train_from_iterator(
        corpus,
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


def tiny_options(base: Path, run: Path) -> list[str]:
    """Return the options of a command that let it finish in seconds.

    Args:
        base: What `save_tiny_base` saved.
        run: The run's folder.
    """
    return shlex.split(
        f"--model.base.name {base} --model.base.gradient_checkpointing true --model.lora.r 32 --data.source synthetic:120 "
        f"--data.splits.rows 32 --data.splits.val_fraction 0.25 --data.splits.test_rows 16 --data.batch_size 2 "
        f"--trainer.accelerator cpu --trainer.accumulate_grad_batches 2 --trainer.enable_progress_bar false "
        f"--trainer.enable_model_summary false --run.dir {run} --run.eval_every 2 --run.save_every 2"
    )


def run_command(*words: str) -> str:
    """Run a command of mv_lightning in a fresh process of one thread, and return what it prints.

    Args:
        words: The command and its options.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mv_lightning", *words],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
