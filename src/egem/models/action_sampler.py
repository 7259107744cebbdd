"""Chunks of actions again and again at the lowest latency: a compiled expert, flow steps as one CUDA graph."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from egem.batch import Sample
from egem.core.errors import ConfigError
from egem.models.action_expert import Condition
from egem.models.action_flow import sample_chunks
from egem.models.blocks import compile_blocks, compile_expert
from egem.models.gem_vla import GEMVLA

Compiled = Literal["none", "expert", "all"]
"""The expert runs in every flow step. The rest runs once a chunk, and also writes text and draws depth: with "all"
these are compiled too, when they are first asked for."""

_TOKEN_MULTIPLE = 64
"""Prompts are padded to a multiple of so many tokens: few need a graph, and compiled code always sees a mask."""
_MAX_GRAPHS = 4
_WARM_UP = 3


class ActionSampler:
    """`GEMVLA.sample_actions`, made ready for being called often.

    Args:
        model: in evaluation mode, on its device.
        num_steps: of the flow; None takes the checkpoint's default.
        compiled: what of the model is compiled, in place, when it is first called; results differ by rounding alone.
            One sample, several samples, and each of these with real-time chunking are compiled apart.
        cuda_graph: record all flow steps once for each length of prompts and play them back: no kernel waits for
            Python. What a graph was recorded with is kept for the last few lengths. Real-time chunking needs
            gradients and runs the steps one by one.
        backend: of torch.compile.

    Raises:
        ConfigError: CUDA graphs without a GPU, or less than one step.
    """

    def __init__(
        self,
        model: GEMVLA,
        *,
        num_steps: int | None = None,
        compiled: Compiled = "none",
        cuda_graph: bool = False,
        backend: str = "inductor",
    ):
        if cuda_graph and model.device.type != "cuda":
            raise ConfigError(f"CUDA graphs need a GPU, the model is on {model.device}; leave them out.")
        self.model = model
        self.num_steps = model.action_expert.config.sampling_steps if num_steps is None else num_steps
        if self.num_steps < 1:
            raise ConfigError(f"{self.num_steps} sampling steps; at least one is needed.")
        if compiled == "all":
            compile_blocks(model, backend=backend)
        if compiled != "none":
            compile_expert(model, backend=backend)
        self._token_multiple = _TOKEN_MULTIPLE if compiled != "none" or cuda_graph else 1
        self._graphs: OrderedDict[tuple[torch.Size, torch.Size], _FlowGraph] | None = (
            OrderedDict() if cuda_graph else None
        )

    @torch.no_grad()
    def __call__(
        self,
        samples: Sequence[Sample],
        states: Float[Tensor, "sample state_dim"],
        *,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "sample horizon action_dim"] | None = None,
        previous: Sequence[Float[Tensor, "kept action_dim"] | None] | None = None,
        committed: Sequence[int] | None = None,
    ) -> Float[Tensor, "sample horizon action_dim"]:
        """See `GEMVLA.sample_actions`."""
        model = self.model
        states, noise, continuation = model.sampling_inputs(
            len(samples), states, generator=generator, noise=noise, previous=previous, committed=committed
        )
        prefix = model.prefix(samples, token_multiple=self._token_multiple)
        if self._graphs is not None and continuation is None:
            assert prefix.mask is not None
            key = (noise.shape, prefix.mask.shape)
            if key not in self._graphs:
                self._graphs[key] = _FlowGraph(model, noise, states, prefix, self.num_steps)
                if len(self._graphs) > _MAX_GRAPHS:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(key)
            return self._graphs[key](noise, states, prefix)
        return sample_chunks(
            lambda chunk, time: model.action_expert(chunk, time, states, prefix),
            noise,
            num_steps=self.num_steps,
            continuation=continuation,
        )


class _FlowGraph:
    """All flow steps for inputs of one shape, recorded on the GPU with inputs of its own."""

    def __init__(self, model: GEMVLA, noise: Tensor, states: Tensor, prefix: Condition, num_steps: int):
        self._noise, self._states, self._prefix = noise.clone(), states.clone(), _map(prefix, torch.clone)

        def run() -> Tensor:
            return sample_chunks(
                lambda chunk, time: model.action_expert(chunk, time, self._states, self._prefix),
                self._noise,
                num_steps=num_steps,
            )

        # What is set up at the first call (compilation, workspaces) must not be recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._drawn = run()

    def __call__(self, noise: Tensor, states: Tensor, prefix: Condition) -> Tensor:
        self._noise.copy_(noise)
        self._states.copy_(states)
        for mine, given in zip(_tensors(self._prefix), _tensors(prefix), strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._drawn.clone()


def _tensors(condition: Condition) -> list[Tensor]:
    found: list[Tensor] = []
    _map(condition, lambda tensor: found.append(tensor) or tensor)
    return found


def _map(condition: Condition, function: Callable[[Tensor], Tensor]) -> Condition:
    """The same condition of other tensors."""
    layers = tuple(
        (function(layer[0]), function(layer[1])) if isinstance(layer, tuple) else function(layer)
        for layer in condition.layers
    )
    mask = None if condition.mask is None else function(condition.mask)
    rotation = condition.rotation
    if rotation is not None:
        rotation = (function(rotation[0]), function(rotation[1]))
    return replace(condition, layers=layers, mask=mask, rotation=rotation)
