"""Divides the frozen weights of a base model's layers among processes.

Zhao et al. 2023 (arXiv:2304.11277), as PyTorch's `fully_shard` implements it (FSDP 2). The adapters
stay whole in every process, so that optimizer, clipping and checkpoints remain those of plain data
parallelism.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel


def shard_layers(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Leave each process its part of the frozen weights of every layer.

    From now on a layer gathers its weights before its forward and its backward pass and frees them
    afterwards, so that all processes must run the same number of passes. The 4-bit scales,
    embeddings, the last norm and the head stay whole.

    Args:
        model: With adapters, the same in every process; changed in place. The layers are moved to
            the mesh's device one by one; everything else stays where it is.
        mesh: The processes that share a copy, in one dimension.
    """
    model = model.base_model
    if isinstance(model, FSDPModule):
        return
    for layer in model.layers:
        for module in layer.modules():
            if getattr(module, "quant_state", None) is not None:
                # Plain bytes, as what `fully_shard` gathers into is no `Params4bit` either. The
                # scales are read from the layer.
                module.weight = Parameter(module.weight.data, requires_grad=False)
                module.quant_state.to(mesh.device_type)
        trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # With a common root, a layer is gathered while the one before it is computed.
    fully_shard(model, mesh=mesh, ignored_params=set(model.parameters()))


def sharded_names(module: Module) -> list[str]:
    """Return the names of the parameters that are divided among processes.

    Args:
        module: Whose parameters.
    """
    return [name for name, parameter in module.named_parameters() if isinstance(parameter, DTensor)]
