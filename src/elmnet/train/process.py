"""What of torch is the whole process's: its threads and random generators, put back after use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from elmnet.train.config import RunConfig


@contextmanager
def borrowed(config: RunConfig) -> Iterator[None]:
    """As many threads as a run has; afterwards threads and generators are as they were."""
    threads = torch.get_num_threads()
    gpus = config.device != "cpu" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if gpus else ()):
        torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
