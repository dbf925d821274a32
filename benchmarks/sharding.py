"""Whether FSDP computes with a sharded NF4 base what DDP computes with a whole one.

    python -m benchmarks.sharding

Two processes on a CPU (gloo) with the tiny base of the tests in NF4. Its packed bytes are stored as
fp32, so that PyTorch's FSDP (version 1) can put them with fp32 norms and adapters into one flat
parameter for each layer. Compared are the loss and the averaged gradients of a step of eight rows.
Then the state of two optimizers is gathered, as a checkpoint needs it. `fit` refuses FSDP; this
states how far it would work. Writes `benchmarks/results/sharding.json`.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.multiprocessing.spawn import spawn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from benchmarks.measure import record
from mv_lightning.data.batching import pack
from mv_lightning.data.encoding import encode_rows, verdict_token_ids
from mv_lightning.data.prompts import load_prompt
from mv_lightning.data.sources import load_source
from mv_lightning.formatting import first_line
from mv_lightning.model import adapters, base, verdict
from mv_lightning.model.linear import FusedLinear4bit
from mv_lightning.schema import Batch
from mv_lightning.testing import save_tiny_base

PROCESSES, ROWS = 2, 8


class StepLoss(torch.nn.Module):
    """A model whose forward pass is the loss of this process's rows, which FSDP wraps."""

    def __init__(self, settings: base.BaseSettings, verdict_ids: tuple[int, int]) -> None:
        """Load the base and attach adapters whose second matrices are not zero."""
        super().__init__()
        model = base.load_base(settings, torch.float32, torch.device("cpu"))
        store_as_fp32(model)
        torch.manual_seed(1)
        self.adapted = adapters.attach(model, adapters.LoraSettings(r=32, alpha=32))
        for name, parameter in adapters.trained_parameters(self.adapted).items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        for module in self.adapted.modules():
            if isinstance(module, FusedLinear4bit):
                module.register_forward_pre_hook(_give_scales)
        self._verdict_ids = verdict_ids

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return this process's share of the mean loss, times the processes: they are averaged."""
        model = self.adapted.get_base_model()
        hidden_TD = verdict.hidden_states(model, batch)
        head = verdict.output_head(model)
        loss_B = verdict.verdict_loss(hidden_TD, head, batch, self._verdict_ids)
        return loss_B.sum() / batch.step_rows * PROCESSES


def store_as_fp32(model: torch.nn.Module) -> None:
    """Take the bytes of NF4 weights for fp32 numbers, as `bnb_4bit_quant_storage` does.

    Args:
        model: Changed in place.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            data = module.weight.data.flatten().view(torch.float32)[:, None]
            module.weight = Params4bit(
                data, requires_grad=False, quant_state=state, bnb_quantized=True
            )
            module.quant_state = state


def _give_scales(layer: Any, args: Any) -> None:
    """FSDP replaces the weight by a view of its flat parameter, which has no scales."""
    layer.base_layer.weight.quant_state = layer.base_layer.quant_state


def compare(rank: int, folder: Path) -> None:
    """Do what one of the processes does; the first one records the result.

    Args:
        rank: The process.
        folder: The base in `base`, and a file for the rendezvous.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    settings = base.BaseSettings(name=str(folder / "base"), gradient_checkpointing=False)
    batch, verdict_ids = own_rows(rank, settings)
    loss, gradients = ddp_step(StepLoss(settings, verdict_ids), batch)
    policy = functools.partial(
        transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer}
    )
    sharded = FullyShardedDataParallel(
        StepLoss(settings, verdict_ids),
        auto_wrap_policy=policy,
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )
    sharded_loss, sharded_gradients = fsdp_step(sharded, batch)
    differences = [
        (sharded_gradients[name] - gradient).abs().max().item()
        for name, gradient in gradients.items()
    ]
    states = {
        "adamw_torch": gathered_state(sharded, torch.optim.AdamW),
        "adamw_8bit": gathered_state(sharded, bitsandbytes.optim.AdamW8bit),
    }
    if rank == 0:
        largest = max(gradient.abs().max().item() for gradient in gradients.values())
        record(
            "sharding",
            loss={"ddp": loss, "fsdp": sharded_loss},
            gradients={"largest": largest, "largest_difference": max(differences)},
            gathered_states=states,
        )
        print(*(f"{name}: {found}" for name, found in states.items()), sep="\n")
    torch.distributed.destroy_process_group()


def own_rows(rank: int, settings: base.BaseSettings) -> tuple[Batch, tuple[int, int]]:
    """Return every other row of a step, packed, and the ids of the verdicts.

    Args:
        rank: The process.
        settings: Of the base, for its tokenizer.
    """
    source, prompt = load_source(f"synthetic:{ROWS}"), load_prompt("explanation")
    columns = {name: source.table[name][:] for name in ("question", "answer", "solution")}
    tokenizer = base.load_tokenizer(settings)
    rows = encode_rows(columns, source.labels_N, np.arange(ROWS), prompt, tokenizer, 2048)
    batch = pack(rows, np.arange(rank, ROWS, PROCESSES), ROWS)
    return batch, verdict_token_ids(tokenizer, prompt)


def ddp_step(whole: StepLoss, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss, and the gradients averaged over the processes.

    Args:
        whole: The model of this process.
        batch: Its rows.
    """
    loss = whole(batch)
    loss.backward()
    gradients = {}
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            gradients[name] = parameter.grad / PROCESSES
    return loss.item(), gradients


def fsdp_step(
    sharded: FullyShardedDataParallel, batch: Batch
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the same of a sharded model.

    Args:
        sharded: The model.
        batch: The rows of this process.
    """
    loss = sharded(batch)
    loss.backward()
    gradients = {}
    with FullyShardedDataParallel.summon_full_params(sharded, with_grads=True):
        for name, parameter in sharded.named_parameters():
            if parameter.grad is not None:
                gradients[name.replace("_fsdp_wrapped_module.", "")] = parameter.grad.clone()
    return loss.item(), gradients


def gathered_state(
    sharded: FullyShardedDataParallel, optimizer_class: type[torch.optim.Optimizer]
) -> str:
    """Take a step, gather the optimizer's state, and return what came of it.

    Args:
        sharded: With gradients.
        optimizer_class: Of the optimizer.
    """
    parameters = [parameter for parameter in sharded.parameters() if parameter.requires_grad]
    optimizer = optimizer_class(parameters, lr=1e-3)  # type: ignore[call-arg]
    optimizer.step()
    try:
        with FullyShardedDataParallel.state_dict_type(sharded, StateDictType.FULL_STATE_DICT):
            state = FullyShardedDataParallel.optim_state_dict(sharded, optimizer)
    except RuntimeError as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return f"gathered, {len(state['state'])} parameters"


def main() -> None:
    """Run both processes."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_base(folder / "base")
        spawn(compare, (folder,), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
