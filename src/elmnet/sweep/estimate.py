"""How long trials would take here, from a few timed training steps."""

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from elmnet.errors import DivergedError
from elmnet.sweep.recipe import Trial
from elmnet.tasks import OpenTasks, Task
from elmnet.train.config import RunConfig
from elmnet.train.learner import Learner
from elmnet.train.process import borrowed

PROBES = 4
SECONDS = 0.5
"""For each probe, at least two steps."""


def seconds_of(trials: Sequence[Trial], *, threads: int = 1) -> dict[Trial, float]:
    """Seconds of training of every trial, from steps of a few timed: linear in FLOPs per step between them.

    Evaluations, which depend on the task's splits, are not in it.
    """
    step_flops = {trial: trial.work / trial.config.training.steps for trial in trials}
    ordered = sorted(trials, key=lambda trial: step_flops[trial])
    chosen = {ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, PROBES)}
    tasks, points = OpenTasks(), []
    for trial in chosen:
        config = trial.config.replace(threads=threads)
        task = config.open_task(tasks=tasks)
        with borrowed(config):
            points.append((step_flops[trial], _seconds(config, task)))
    flops, seconds = np.array(sorted(points)).T
    slope = seconds[-1] / flops[-1]
    return {
        trial: float(np.interp(f, flops, seconds) if f <= flops[-1] else f * slope) * trial.config.training.steps
        for trial, f in step_flops.items()
    }


def _seconds(config: RunConfig, task: Task) -> float:
    """Of one training step, as a run of this configuration takes it."""
    learner = Learner(config, task)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        given = learner.take()
        with suppress(DivergedError):  # which says nothing of its speed
            learner.learn(given, learner.pull(given))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
