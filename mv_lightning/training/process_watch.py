"""Ends all processes of a run when one of them has died, and names it."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

import lightning.pytorch as pl
import torch

_GRACE_SECONDS = 5.0
"""Processes that end together do so at slightly different times."""
_POLL_SECONDS = 1.0


class ProcessWatch(pl.Callback):
    """Ends this process when another one of the run on the same machine has died.

    Otherwise it might wait for the dead one until the timeout of the process group, half an hour
    with Lightning's defaults. Linux reports the end of a process by a file descriptor
    (`pidfd_open(2)`); elsewhere nothing is watched. Processes on other machines are ended by what
    started them, torchrun or srun.
    """

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the other processes of this one, and watch them."""
        if trainer.world_size == 1 or not hasattr(os, "pidfd_open"):
            return
        found: list[tuple[str, int]] = [(socket.gethostname(), os.getpid())]
        found *= trainer.world_size
        torch.distributed.all_gather_object(found, found[0])
        host = socket.gethostname()
        pids = {rank: pid for rank, (where, pid) in enumerate(found) if where == host}
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=_watch, args=(pids, trainer.global_rank, self._stopped), daemon=True
        )
        self._thread.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop once every process has come this far: from now on they may end."""
        if self._thread is not None:
            trainer.strategy.barrier()
            self._stopped.set()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop, unless the exception may be due to the death of another process: then that is what
        is reported."""
        if self._thread is not None and isinstance(exception, RuntimeError):
            self._thread.join(_GRACE_SECONDS + 2 * _POLL_SECONDS)
        self._stopped.set()


def _watch(pids: dict[int, int], own_rank: int, stopped: threading.Event) -> None:
    """End this process when one of the others has ended and it is not told to stop.

    Args:
        pids: Process ids by rank.
        own_rank: This process.
        stopped: Set when the others may end.
    """
    poll = select.poll()
    ranks = {}
    for rank, pid in pids.items():
        if rank != own_rank:
            descriptor = os.pidfd_open(pid)
            ranks[descriptor] = rank
            poll.register(descriptor, select.POLLIN)
    dead: list[int] = []
    while not dead and not stopped.is_set():
        dead = [ranks[descriptor] for descriptor, _ in poll.poll(_POLL_SECONDS * 1000)]
    if stopped.wait(_GRACE_SECONDS):
        for descriptor in ranks:
            os.close(descriptor)
        return
    if own_rank == min(pids.keys() - dead):
        names = " and ".join(f"process {rank} (id {pids[rank]})" for rank in dead)
        print(
            f"error: {names} of {socket.gethostname()} has died, so all processes of the run end. "
            "The same command resumes from what is stored",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)
