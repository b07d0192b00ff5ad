"""The forward and backward pass of a training step as one CUDA graph: one launch instead of hundreds.

A graph repeats what was recorded, on the same memory. What changes from step to step is copied into tensors of the
graph's own before; outputs and gradients lie in others, which the next step overwrites. Not measured on a GPU yet.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from elmnet.models import State
from elmnet.network import ELMNetwork
from elmnet.ops import Masks

if TYPE_CHECKING:
    from elmnet.train.learner import Learner

WARM_UP = 3
"""Passes before the recorded one: kernels are compiled, connectomes sorted and allocators filled in them."""


class Given(NamedTuple):
    """What the network gets in one training step, on its device."""

    x: Tensor
    y: Tensor
    state: State
    lengths: Tensor | None
    masks: list[Masks] | None
    """Dropout masks of every layer; None for a baseline, which has none."""
    share: float
    """By which the loss of a part of the batch is multiplied, so that the team's mean is the whole batch's loss."""


class Pulled(NamedTuple):
    """What a forward and backward pass gives besides gradients."""

    state: State
    loss: Tensor
    error: Tensor
    """The task's own part of the loss."""


Pull = Callable[[list[Given]], list[Pulled]]
"""A pass of one run or of several together; gradients are left in the parameters."""


def refuses(learner: "Learner") -> str | None:
    """Why a run's step cannot be captured; None: it can."""
    if torch.device(learner.config.device).type != "cuda":
        return f"the run's device is {learner.config.device}; choose a GPU with --set device=cuda"
    if not isinstance(learner.network, ELMNetwork):
        return "it is for ELM networks"
    if learner.team.size > 1:
        return "it is for one process, not for torchrun"
    if learner.task.picks:
        return f"the loss of {learner.task.name} picks the steps that count, which asks the GPU how many there are"
    if learner.task.training_batch(0).lengths is not None:
        return "sequences of different lengths are checked on the CPU at every step"
    return None


def record(work: Callable[[], None]) -> Callable[[], None]:
    """Run `work`, which may only read and write memory that stays, and return what repeats it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):  # autograd goes back on the stream it came on
        work()
    graph.replay()  # what is captured is not run
    return graph.replay


class Captured:
    """A pass that is recorded at its first call and repeated from then on.

    Args:
        pull: the pass. It must ask the GPU nothing, and all batches must have one shape.
        parameters: all that it gives gradients.
    """

    def __init__(self, pull: Pull, parameters: Sequence[Parameter]) -> None:
        self._pull, self._parameters = pull, parameters
        self._fixed: list[Given] = []
        self._pulled: list[Pulled] = []
        self._gradients: list[Tensor | None] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, given: list[Given]) -> list[Pulled]:
        """As `pull`; the returned tensors and the gradients are overwritten by the next call."""
        if self._replay is None:
            self._fixed = deepcopy(given)
            self._replay = record(self._work)
        else:
            for ours, own in zip(self._fixed, given, strict=True):
                for to, tensor in zip(_tensors(ours), _tensors(own), strict=True):
                    to.copy_(tensor)
            self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._pulled

    def _work(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        self._pulled = []  # of the pass before, whose graph is not needed
        pulled = self._pull(self._fixed)
        self._pulled = [Pulled(p.state.detach(), p.loss.detach(), p.error.detach()) for p in pulled]
        self._gradients = [parameter.grad for parameter in self._parameters]


def _tensors(given: Given) -> Iterator[Tensor]:
    """All that change from step to step."""
    yield from (given.x, given.y, *given.state.tensors().values())
    yield from (mask for layer in given.masks or () for mask in layer if mask is not None)
