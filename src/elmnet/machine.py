"""What this process may use of its machine."""

import os


def cores() -> int:
    """Of its processor: fewer than there are where a batch system, a cpuset or `taskset` says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
