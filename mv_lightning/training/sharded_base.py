"""Several processes that share one copy of the base: for bases that do not fit into one GPU."""

from __future__ import annotations

from functools import cached_property

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from mv_lightning.model.sharding import shard_layers, sharded_names


class ShardedBaseStrategy(DDPStrategy):
    """DDP whose processes on one machine divide the frozen layers of the base among them (FSDP).

    Only what is frozen is sharded. Adapters, gradients and optimizer are those of DDP, so that
    8-bit optimizers, clipping by norm, checkpoints, and a resume on another number of processes
    work as they do there. A layer's weights are gathered within a machine, not over the network.
    """

    def setup(self, trainer: pl.Trainer) -> None:
        """Prepare the model for the trainer's loops."""
        for loop in (
            trainer.fit_loop.epoch_loop.val_loop,
            trainer.validate_loop,
            trainer.test_loop,
            trainer.predict_loop,
        ):
            # Weights that were first gathered in inference mode could not be written to again.
            loop.inference_mode = False
        super().setup(trainer)

    @cached_property
    def _machine_mesh(self) -> DeviceMesh:
        """The processes of this machine; making it makes process groups."""
        shape, names = (self.num_nodes, self.num_processes), ("machine", "process")
        return init_device_mesh(self.root_device.type, shape, mesh_dim_names=names)["process"]

    def model_to_device(self) -> None:
        """Divide the base, which was loaded into the host's memory, and move everything."""
        shard_layers(self.lightning_module.causal_model, self._machine_mesh)
        super().model_to_device()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self.lightning_module, sharded_names(self.lightning_module)
        )


StrategyRegistry.register(
    "sharded_base",
    ShardedBaseStrategy,
    description="DDP that divides the frozen base among the GPUs of a machine",
)
