"""Scoring a network on a split of a task."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elmnet.models import Network, State
from elmnet.tasks import Scores, Split, Task
from elmnet.train.config import RunConfig


def precision(config: RunConfig, network: Network) -> torch.autocast:
    """Around the forward pass of a run's network."""
    return torch.autocast(network.device.type, torch.bfloat16, enabled=config.dtype == "bf16-mixed")


@torch.no_grad()
def evaluate(
    network: Network,
    task: Task,
    split: Split,
    *,
    whole: bool,
    advance: Callable[[], None] = lambda: None,
    confusion: NDArray[np.int64] | None = None,
    tallies: list[NDArray[np.float64]] | None = None,
) -> Scores:
    """Scores without label smoothing, regularisers or dropout; state carried as the task says.

    Args:
        network: is put into evaluation mode for the time being.
        task: gives batches and scores.
        split: which data.
        whole: the final evaluation instead of one turn's.
        advance: called after every batch (for a progress bar, or to raise an interruption).
        confusion: to which is added how often a class (rows) was taken for each (columns); (n_out, n_out).
        tallies: to which is appended the task's tally of every batch.
    """
    was_training = network.training
    network.eval()
    try:
        outputs = _outputs(network, task, split, whole, advance)
        return task.measure(_noting(outputs, task, confusion, tallies))
    finally:
        network.train(was_training)


def _noting(
    outputs: Iterator[tuple[Tensor, Tensor]],
    task: Task,
    confusion: NDArray[np.int64] | None,
    tallies: list[NDArray[np.float64]] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    for out, y in outputs:
        if confusion is not None:
            confusion += task.confusion(out, y)
        if tallies is not None:
            tallies.append(task.tally(out, y))
        yield out, y


def _outputs(
    network: Network, task: Task, split: Split, whole: bool, advance: Callable[[], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of every batch."""
    state: State | None = None
    for batch in task.evaluation_batches(split, whole=whole):
        x, y = batch.x.to(network.device), batch.y.to(network.device)
        out, state = network(x, None if batch.fresh else state, batch.lengths)
        yield out, y
        advance()
