"""AdamW of bitsandbytes, one call for many parameters.

bitsandbytes updates a parameter at a time and waits for the GPU after each: 448 times a step for
the adapters of an 8B base. Here parameters and their states are views of flat buffers, and a call
updates a buffer. Each parameter starts at a multiple of the 256 elements that share a scale, so
that the result is that of separate calls, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer2State
from bitsandbytes.utils import sync_gpu

from mv_lightning.model.optim import MIN_8BIT_ELEMENTS, STATE_BLOCK

BUFFER_ELEMENTS = 2**24
"""Of a buffer. The gradients of one buffer at a time are copied: 67 MB in fp32."""

States = Mapping[torch.nn.Parameter, Mapping[str, Any]]


@dataclass(frozen=True)
class _Buffer:
    """Parameters that are updated together."""

    group: int
    """Their group among the optimizer's."""
    parameters: list[torch.nn.Parameter]
    starts: list[int]
    """Of the parameters among the elements."""
    flat: torch.nn.Parameter
    """All of their elements."""

    @classmethod
    def of(cls, group: int, parameters: list[torch.nn.Parameter]) -> _Buffer:
        """Move parameters into a new buffer."""
        starts, stop = [], 0
        for parameter in parameters:
            starts.append(_blocks(stop) * STATE_BLOCK)
            stop = starts[-1] + parameter.numel()
        flat = torch.nn.Parameter(parameters[0].data.new_zeros(stop), requires_grad=False)
        buffer = cls(group, parameters, starts, flat)
        for parameter, view in zip(parameters, buffer.views(flat.data), strict=True):
            view.copy_(parameter.data)
            parameter.data = view
        return buffer

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return what belongs to each parameter of a tensor with the buffer's elements."""
        return [
            flat[start : start + parameter.numel()].view_as(parameter)
            for start, parameter in zip(self.starts, self.parameters, strict=True)
        ]

    def scales(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return what belongs to each parameter of a tensor with an element for each block."""
        return [
            flat[start // STATE_BLOCK : _blocks(start + parameter.numel())]
            for start, parameter in zip(self.starts, self.parameters, strict=True)
        ]

    def holds_parameters(self) -> bool:
        """Return whether the parameters are views of it; a module that is moved has new ones."""
        first, size = self.flat.data_ptr(), self.flat.element_size()
        places = [parameter.data_ptr() - first for parameter in self.parameters]
        return places == [start * size for start in self.starts]

    def gathered_gradients(self) -> torch.Tensor:
        """Return the gradients as a tensor with the buffer's elements."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if len(gradients) < len(self.parameters):
            raise ValueError("expected a gradient of every parameter, got some without. Train all")
        parts: list[torch.Tensor] = []
        stop = 0
        for start, gradient in zip(self.starts, gradients, strict=True):
            if start > stop:
                parts.append(gradient.new_zeros(start - stop))
            parts.append(gradient.reshape(-1))
            stop = start + gradient.numel()
        return torch.cat(parts)

    def split_state(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the state of each parameter, as views of the buffer's."""
        states: list[dict[str, Any]] = [{} for _ in self.parameters]
        for key, value in state.items():
            values = [value] * len(states)
            if key.startswith("state"):
                values = self.views(value)
            elif key.startswith("absmax"):
                values = self.scales(value)
            for own, part in zip(states, values, strict=True):
                own[key] = part
        return states


class FlatAdamW(Optimizer2State):
    """The results, parameter groups and checkpoints are those of bitsandbytes' own optimizer.

    The states are in the buffers, and `state` is empty: what moves an optimizer's states to a GPU,
    as Lightning does after a resume, would unpage those of a paged optimizer.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **options: Any) -> None:
        """Allocate nothing yet.

        Args:
            parameters: What is trained; all of them must have a gradient in every step.
            options: Of bitsandbytes' `Optimizer2State`.
        """
        super().__init__("adam", parameters, **options)
        self._options = options
        self._buffers: list[_Buffer] = []
        self._updater: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state as bitsandbytes' optimizer has it, for each parameter."""
        self.state.update(self._states())
        state_dict: dict[str, Any] = super().state_dict()
        self.state.clear()
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        """Load a state into the buffers, paged if the optimizer is.

        Args:
            state_dict: Of this optimizer or of bitsandbytes' own.
            move_to_device: Unused, as the buffers are where the parameters are.
        """
        super().load_state_dict(state_dict, move_to_device=False)
        states = dict(self.state)
        self.state.clear()
        self._fill_buffers(states)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Update all parameters.

        Args:
            closure: Computes the gradients, and returns the loss.

        Raises:
            ValueError: A parameter has no gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._buffers or not all(buffer.holds_parameters() for buffer in self._buffers):
            self._fill_buffers(self._states())
        for index, buffer in enumerate(self._buffers):
            buffer.flat.grad = buffer.gathered_gradients()
            self._updater.prefetch_state(buffer.flat)
            self._updater.update_step(self.param_groups[buffer.group], buffer.flat, index, 0)
            buffer.flat.grad = None
        if self.is_paged:
            sync_gpu(self._buffers[-1].flat)  # the host may read what is paged out
        return loss

    @torch.no_grad()
    def _fill_buffers(self, states: States) -> None:
        """Move the parameters, and their states if there are any, into new buffers."""
        self._buffers = []
        for index, group in enumerate(self.param_groups):
            self._buffers += [_Buffer.of(index, part) for part in _parts(group["params"])]
        # bitsandbytes names a tensor by its group and place: here by the buffer and 0.
        groups = [{"params": [buffer.flat]} for buffer in self._buffers]
        self._updater = Optimizer2State("adam", groups, **self._options)
        for index, buffer in enumerate(self._buffers):
            self._updater.init_state(self.param_groups[buffer.group], buffer.flat, index, 0)
            shared = self._updater.state[buffer.flat]
            for parameter, views in zip(buffer.parameters, buffer.split_state(shared), strict=True):
                for key, value in states.get(parameter, {}).items():
                    if key.startswith(("state", "absmax")):
                        views[key].copy_(value)
            shared["step"] = states.get(buffer.parameters[0], shared)["step"]

    def _states(self) -> dict[torch.nn.Parameter, dict[str, Any]]:
        """The state of every parameter; nothing before the first step."""
        states: dict[torch.nn.Parameter, dict[str, Any]] = {}
        for buffer in self._buffers:
            parts = buffer.split_state(self._updater.state[buffer.flat])
            states.update(zip(buffer.parameters, parts, strict=True))
        return states


def _blocks(elements: int) -> int:
    """The number of blocks, the last of which may be incomplete."""
    return -(-elements // STATE_BLOCK)


def _parts(parameters: list[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    """Divide parameters into buffers. Those that are too small for an 8-bit state stay alone."""
    large = [parameter for parameter in parameters if parameter.numel() >= MIN_8BIT_ELEMENTS]
    small = [parameter for parameter in parameters if parameter.numel() < MIN_8BIT_ELEMENTS]
    parts: list[list[torch.nn.Parameter]] = []
    elements = BUFFER_ELEMENTS
    for parameter in large:
        elements += parameter.numel()
        if elements > BUFFER_ELEMENTS:
            parts.append([])
            elements = parameter.numel()
        parts[-1].append(parameter)
    return parts + [[parameter] for parameter in small]
