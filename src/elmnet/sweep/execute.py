"""Running a sweep: in this process, in local ones, or on any Dask cluster.

Every worker process trains one trial at a time, or a few of equal shape together. A worker that dies loses what it did
since its last checkpoints; its trials go on elsewhere. The driver keeps nothing: it may die and be started again, and
several may share a directory.
"""

import inspect
import json
import logging
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elmnet.errors import ConfigError, RunError, in_a_line
from elmnet.strict import read_yaml
from elmnet.sweep.recipe import Trial
from elmnet.sweep.store import UNFINISHED, Sweep
from elmnet.sweep.trials import Job, Outcome, record_failure, run_together
from elmnet.train import signals
from elmnet.train.loop import shape_of
from elmnet.train.run import keeps_to_itself

if TYPE_CHECKING:
    from distributed import Client

Note = Callable[[Trial, Outcome], None]
POLL_SECONDS = 5.0
"""Between looks at trials that another driver trains."""
WORKER = {
    # with it malloc hands every freed tensor's pages back to the system, and asks for them again at the next step
    "DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON": "{'MALLOC_TRIM_THRESHOLD_':None}",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h",  # training holds the interpreter for long: no warning
}
"""What makes a Dask worker train a fifth faster, as variables of the shell that starts it."""
DEATHS = 20
"""Workers a trial may lose before it is taken for their cause."""
STARTS = 3
"""Attempts to start local workers."""
CLUSTERS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "htcondor": "HTCondorCluster",
}


def jobs(sweep: Sweep, *, threads: int, retry: bool = False, halving: bool = False) -> dict[Trial, Job]:
    """What is left to do, costliest first, so that the sweep does not end with one worker busy for long."""
    wanted = (*UNFINISHED, *(("failed",) if retry else ()))
    left = [seen.trial for seen in sweep.look() if seen.state in wanted]
    left.sort(key=lambda trial: -trial.work)
    root = sweep.path.resolve()
    return {
        trial: Job(str(root / "trials" / trial.name), trial.config.to_dict(), threads, retry, halving) for trial in left
    }


def packs(trials: Iterable[Trial], replicas: int) -> list[tuple[Trial, ...]]:
    """Trials that one worker trains at a time: up to `replicas` of equal shape, in the order they came."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        alone = replicas == 1 or keeps_to_itself(trial.config) is not None
        groups.setdefault(trial.name if alone else json.dumps(shape_of(trial.config)), []).append(trial)
    return [tuple(group[i : i + replicas]) for group in groups.values() for i in range(0, len(group), replicas)]


def in_process(todo: Mapping[Trial, Job], note: Note, *, replicas: int = 1) -> bool:
    """One pack of trials after another, here. Returns whether all ended; False: a signal stopped them."""
    waiting = dict(todo)
    while waiting:
        for pack in packs(waiting, replicas):
            outcomes = run_together([waiting[trial] for trial in pack])
            if "stopped" in outcomes:
                return False
            _settle(waiting, pack, outcomes, note)
        if waiting:
            time.sleep(POLL_SECONDS)
    return True


def on_cluster(
    client: "Client", todo: Mapping[Trial, Job], note: Note, resources: Mapping[str, float], *, replicas: int = 1
) -> bool:
    """On the workers of a cluster, one pack of trials at a time on each. Returns whether all ended."""
    from distributed.scheduler import KilledWorker

    waiting = dict(todo)
    wanted = dict(resources) or None
    client.run(signals.stop_everywhere, None, on_error="ignore")  # a driver that was stopped may have died before this
    with signals.StopSignals() as stop:
        while waiting and stop.asked == 0:
            futures = {
                client.submit(
                    run_together,
                    [waiting[trial] for trial in pack],
                    pure=False,
                    resources=wanted,
                    priority=sum(trial.work for trial in pack),
                ): pack
                for pack in packs(waiting, replicas)
            }
            while futures and stop.asked == 0:
                for future in [future for future in futures if future.done()]:
                    pack, error = futures.pop(future), future.exception()
                    outcomes: list[Outcome] = ["failed"] * len(pack)
                    if isinstance(error, KilledWorker):
                        words = f"{DEATHS} workers died while they trained it; out of memory?"
                        for trial in pack:
                            record_failure(Path(waiting[trial].directory), RuntimeError(words))
                    elif error is not None:
                        raise error
                    else:
                        outcomes = future.result()
                    _settle(waiting, pack, outcomes, note)
                time.sleep(0.1)
            if stop.asked:
                _stop(client, list(futures))
            elif waiting:
                time.sleep(POLL_SECONDS)  # another driver trains what is left
    return not waiting


def _settle(waiting: dict[Trial, Job], pack: Sequence[Trial], outcomes: Sequence[Outcome], note: Note) -> None:
    """Take what has ended off the list."""
    for trial, outcome in zip(pack, outcomes, strict=True):
        if outcome in ("done", "failed", "stopped early"):
            del waiting[trial]
            note(trial, outcome)


def _stop(client: "Client", futures: list[Any]) -> None:
    """Let running trials save, and forget the others; whoever drives these workers next may train."""
    client.run(signals.stop_everywhere, int(signal.SIGTERM), on_error="ignore")
    running = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in futures if future.key not in running])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(future.done() for future in futures if future.key in running):
        time.sleep(0.1)
    client.run(signals.stop_everywhere, None, on_error="ignore")


@contextmanager
def local(workers: int) -> Iterator["Client"]:
    """Worker processes on this machine.

    Raises:
        RunError: they do not start.
    """
    distributed = _distributed()
    _configure()
    with _local_cluster(workers) as cluster, distributed.Client(cluster) as client:
        client.run(_deafen, on_error="ignore")
        try:
            yield client
        finally:
            with suppress(Exception):  # it may be gone, and what ended the sweep is what matters
                client.run(_hush, on_error="ignore")


def _local_cluster(workers: int) -> Any:
    """A cluster whose workers have all started: Dask gives up if one is killed before it is ready."""
    for _ in range(STARTS):
        try:
            return _distributed().LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", memory_limit=0
            )
        except (RuntimeError, OSError, TimeoutError) as error:
            reason = error.__cause__ or error
    raise RunError(
        f"{workers} worker processes could not be started, tried {STARTS} times ({in_a_line(reason)}); is there memory "
        "for them? --workers 1 trains in this process"
    )


def _deafen() -> None:
    """In a worker: Ctrl-C at a terminal reaches it, too, but its driver tells it when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hush() -> None:
    """In a worker: it may find its scheduler gone while both are being closed, which is nobody's business."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


@contextmanager
def by_address(address: str) -> Iterator["Client"]:
    """A cluster that is there already.

    Raises:
        ConfigError: nobody answers.
    """
    distributed = _distributed()
    _configure()
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"--scheduler {address}: no Dask scheduler answers ({error})") from error
    with client:
        yield client


def lacks(client: "Client", resources: Mapping[str, float]) -> list[str]:
    """What the workers of a cluster lack, in words."""
    workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
    if not workers:
        return ["no worker has joined yet: trials wait for one"]
    words = []
    offers = [worker["resources"] for worker in workers]
    if not any(all(offer.get(name, 0) >= amount for name, amount in resources.items()) for offer in offers):
        asked = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
        words.append(f"none of {len(workers)} workers offers {asked}: trials wait for one (dask worker --resources)")
    if any(worker["nthreads"] > 1 for worker in workers):
        words.append("a worker trains one trial at a time, however many threads it has: start more, with --nthreads 1")
    return words


@contextmanager
def queued(kind: str, config: Path | None, workers: int) -> Iterator["Client"]:
    """Workers started by a batch system, through dask-jobqueue."""
    distributed = _distributed()
    _configure()
    with job_queue(kind, config) as cluster, distributed.Client(cluster) as client:
        cluster.scale(workers)
        yield client


def job_queue(kind: str, config: Path | None) -> Any:
    """A dask-jobqueue cluster; its `job_script()` is what the batch system gets.

    Raises:
        ConfigError: no such batch system, an unreadable file, or the extra is missing.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        import dask_jobqueue
    except ImportError:
        raise ConfigError("--cluster needs dask-jobqueue: pip install 'elmnet[cluster]'") from None
    for number, handler in handlers.items():  # importing it makes Ctrl-C exit at once
        signal.signal(number, handler)
    if kind not in CLUSTERS:
        raise ConfigError(f"--cluster must be one of {', '.join(CLUSTERS)}, got {kind!r}")
    settings: dict[str, Any] = {}
    if config is not None:
        try:
            settings = read_yaml(config) or {}
        except ConfigError as error:
            raise ConfigError(f"{config}: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{config}: expected a mapping of settings of dask_jobqueue.{CLUSTERS[kind]}")
    # one trial at a time in each process; the dashboard on any free port
    settings = {
        "cores": 1,
        "processes": 1,
        "memory": "4GB",
        "scheduler_options": {"dashboard_address": ":0"},
        **settings,
    }
    cluster = getattr(dask_jobqueue, CLUSTERS[kind])
    settings["job_script_prologue"] = [*_exports(), *_prologue(cluster, settings)]
    makers = [cluster.__init__, *(kind.__init__ for kind in cluster.job_cls.__mro__ if kind is not object)]
    known = {name for maker in makers for name in inspect.signature(maker).parameters}
    if unknown := sorted(set(settings) - known):  # asked here: a cluster that fails half-made leaves sockets open
        raise ConfigError(f"{config}: {cluster.__name__} has no setting {', '.join(unknown)}")
    try:
        return cluster(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config or kind}: {error}") from error


def _exports() -> list[str]:
    """`WORKER` as commands; no quotes, since HTCondor's class quotes the whole once more."""
    return ["export {}={}".format(name, re.sub(r"([^\w.])", r"\\\1", value)) for name, value in WORKER.items()]


def _prologue(cluster: Any, settings: Mapping[str, Any]) -> list[str]:
    """What the user wants at the beginning of a job's script, by the file or by Dask's own configuration."""
    import dask

    configured = dask.config.get(f"jobqueue.{cluster.job_cls.config_name}.job-script-prologue", None)
    return settings.get("job_script_prologue", configured) or []


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ConfigError("several workers need Dask: pip install 'elmnet[sweep]'; or --workers 1") from None
    return distributed


def _configure() -> None:
    import dask

    dask.config.update(dask.config.config, dask.config.collect_env(WORKER))
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": DEATHS,
            "distributed.scheduler.work-stealing": False,
            "distributed.worker.daemon": False,
            "distributed.comm.timeouts.tcp": "120s",
            "distributed.scheduler.worker-ttl": "30 minutes",
        }
    )
