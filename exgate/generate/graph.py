"""A step of a model on a GPU, captured once as a CUDA graph and then launched as one.

Written out in Python, a step is hundreds of launches, each of which may take longer to ask for than to run. A graph
holds them all, on memory that stays where it is: so tokens and state are copied to where the first step read them.
"""

from typing import Any

import torch
from torch import Tensor

from exgate.ops.state import State, flatten, map_state

WARM_UPS = 3  # steps on another stream before the capture: kernels are compiled and libraries get their memory there


class Unrecordable(Exception):
    """A step cannot be recorded: the message says which operation is in the way, and why."""


class Graph:
    """One step of `model`, taken and captured: `logits` and `state` are those after it, and after each call.

    Raises:
        Unrecordable: the state changes its form, or an operation cannot be captured (one that waits for the device).
    """

    def __init__(self, model: Any, tokens: Tensor, state: State) -> None:
        with torch.cuda.device(tokens.device):
            self._tokens = tokens[:, None].clone()
            self.state = map_state(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), state)
            self._check(self._warm_up(model))
            self._graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                # What other threads do to the device meanwhile is no part of the graph, and does not end it.
                # PyTorch's own stream for captures is on the device that the process first captured on.
                with torch.cuda.graph(self._graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                    logits, after = model(self._tokens, self.state)
                    self.logits = logits[:, -1]
                    self._carry(after)
            except RuntimeError as error:
                torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own stream behind
                raise Unrecordable(f"graph: {error}") from None
            self._graph.replay()  # a capture runs nothing

    def __call__(self, tokens: Tensor) -> Tensor:
        self._tokens.copy_(tokens[:, None])
        self._graph.replay()
        return self.logits

    def _warm_up(self, model: Any) -> State:
        """The state after a step, taken WARM_UPS times from the same state, which no op changes."""
        after, main, side = None, torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                _, after = model(self._tokens, self.state)
        main.wait_stream(side)
        return after

    def _check(self, after: State) -> None:
        old, new = ([(name, x.shape, x.dtype) for name, x in flatten(part).items()] for part in (self.state, after))
        if old != new:
            raise Unrecordable("graph: a state that changes its form")

    def _carry(self, after: State) -> None:
        """Bring the state after the step to where the step reads it."""
        pairs = list(zip(flatten(self.state).values(), flatten(after).values(), strict=True))
        read = {old.untyped_storage().data_ptr() for old, _ in pairs if old.numel()}
        for old, new in pairs:
            if new.untyped_storage().data_ptr() in read and new is not old:  # else a copy before this one overwrites it
                raise Unrecordable("graph: a state that is a part of the state before")
        moved = [(old, new) for old, new in pairs if new is not old and old.numel()]
        if moved:  # all in a launch or a few
            torch._foreach_copy_([old for old, _ in moved], [new for _, new in moved])  # pyright: ignore
