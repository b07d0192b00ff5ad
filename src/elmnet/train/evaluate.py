"""Scoring a network on a split of a task."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from elmnet.models import Network, State
from elmnet.tasks import Scores, Split, Task
from elmnet.train.config import RunConfig


def precision(config: RunConfig, network: Network) -> torch.autocast:
    """Around the forward pass of a run's network."""
    return torch.autocast(network.device.type, torch.bfloat16, enabled=config.dtype == "bf16-mixed")


@torch.no_grad()
def evaluate(
    network: Network, task: Task, split: Split, *, whole: bool, advance: Callable[[], None] = lambda: None
) -> Scores:
    """Scores without label smoothing, regularisers or dropout; state carried as the task says.

    Args:
        network: is put into evaluation mode for the time being.
        task: gives batches and scores.
        split: which data.
        whole: the final evaluation instead of one turn's.
        advance: called after every batch (for a progress bar, or to raise an interruption).
    """
    was_training = network.training
    network.eval()
    try:
        return task.measure(_outputs(network, task, split, whole, advance))
    finally:
        network.train(was_training)


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
