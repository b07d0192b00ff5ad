"""Sweeps on several worker processes: killed at random, by address, stopped by Ctrl-C, two drivers at once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import run

from elmnet.errors import RunError
from elmnet.sweep import execute, table
from elmnet.sweep.store import Sweep
from elmnet.train import signals

pytest.importorskip("distributed", reason="needs Dask (extra `sweep`)")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def write_recipe(path, text_file, *, steps, memories=(2, 3, 4, 5), seeds=(0, 1)):
    settings = {"options.chunk": 10, "options.streams": 4, "options.final_test_streams": 32, "training.eval_every": 50}
    settings |= {"options.final_valid_streams": 32, "training.checkpoint_minutes": 0.005}
    group = {"grid": {"memory": list(memories), "branches": 4, "synapses": 3, "units": 12}, "seeds": list(seeds)}
    document = {"name": "chaos", "task": "enwik8", "data": str(text_file), "preset": "tiny", "set": settings}
    path.write_text(yaml.safe_dump({**document, "trials": [{**group, "steps": steps}]}))
    return path


def command(recipe, out, *rest):
    return [sys.executable, "-m", "elmnet", "sweep", "run", str(recipe), "--out", str(out), *map(str, rest)]


def results(out):
    """Scores and weights of every trial; what a kill must not change."""
    sweep = Sweep.open(out)
    rows = table.write([sweep], sweep.table_file)
    assert all(row["state"] == "done" for row in rows)
    return {row["trial"]: (row["valid_bpc"], row["test_bpc"], row["weights_sha256"]) for row in rows}


def children(pid):
    """Process numbers of all descendants."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds worker processes in /proc")
def test_killed_at_random_the_table_is_the_same(tmp_path, text_file):
    recipe = write_recipe(tmp_path / "recipe.yaml", text_file, steps=1000)  # long enough for all the kills
    subprocess.run(command(recipe, tmp_path / "calm", "--workers", 1), env=ENVIRONMENT, check=True)
    rng, kills = random.Random(5), {"worker": 0, "driver": 0}
    driver = subprocess.Popen(command(recipe, tmp_path / "chaos", "--workers", 3), env=ENVIRONMENT)
    while sum(kills.values()) < 7:
        time.sleep(rng.uniform(4, 8))
        if driver.poll() is not None:
            break
        trainers = [pid for pid in children(driver.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if kills["driver"] < 2 and kills["worker"] >= 2 * (kills["driver"] + 1):
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
            kills["driver"] += 1
            driver = subprocess.Popen(command(recipe, tmp_path / "chaos", "--workers", 3), env=ENVIRONMENT)
        elif trainers:
            os.kill(rng.choice(trainers), signal.SIGKILL)
            kills["worker"] += 1
    if driver.wait(600) != 0:
        driver = subprocess.Popen(command(recipe, tmp_path / "chaos", "--workers", 3), env=ENVIRONMENT)
        assert driver.wait(600) == 0
    print(f"killed: {kills}")
    assert kills["worker"] >= 3
    assert sum(kills.values()) >= 5
    assert len(results(tmp_path / "calm")) == 8
    assert results(tmp_path / "chaos") == results(tmp_path / "calm")


@pytest.mark.slow
def test_a_cluster_by_address_and_two_drivers(tmp_path, text_file):
    """A scheduler and workers started apart, as on two hosts; two drivers share the directory."""
    recipe = write_recipe(tmp_path / "recipe.yaml", text_file, steps=60, memories=(2, 3))
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    file = tmp_path / "scheduler.json"
    scheduler = subprocess.Popen([*start, "--scheduler-file", str(file)], env=ENVIRONMENT)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
    workers = [
        subprocess.Popen(
            [*worker, "--scheduler-file", str(file), "--name", name], cwd=tmp_path, env=ENVIRONMENT | execute.WORKER
        )
        for name in ("host-a", "host-b")
    ]
    try:
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        address = json.loads(file.read_text())["address"]
        drivers = [
            subprocess.Popen(command(recipe, tmp_path / "far", "--scheduler", address), env=ENVIRONMENT)
            for _ in range(2)
        ]
        assert [driver.wait(300) for driver in drivers] == [0, 0]
        with execute.by_address(address) as client:
            kept = client.run(lambda: os.environ.get("MALLOC_TRIM_THRESHOLD_"))
        assert list(kept.values()) == [None, None]
    finally:
        for process in (*workers, scheduler):
            process.terminate()
        for process in (*workers, scheduler):
            process.wait(30)
    subprocess.run(command(recipe, tmp_path / "near", "--workers", 1), env=ENVIRONMENT, check=True)
    assert results(tmp_path / "far") == results(tmp_path / "near")


@pytest.fixture
def cluster():
    """A scheduler with an address, and a worker of two threads in this process."""
    import distributed

    settings = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "protocol": "tcp"}
    with distributed.LocalCluster(**settings, resources={"SLOT": 2}, dashboard_address="127.0.0.1:0") as made:
        yield made.scheduler_address
    signals.stop_everywhere(None)


def test_workers_of_several_threads_train_one_trial_at_a_time(capsys, cluster, tmp_path, text_file, monkeypatch):
    monkeypatch.setattr(execute, "POLL_SECONDS", 0.1)
    recipe = write_recipe(tmp_path / "recipe.yaml", text_file, steps=20, memories=(2, 3))
    signals.stop_everywhere(signal.SIGTERM)  # as a driver leaves workers that was killed while it stopped them
    arguments = ["sweep", "run", recipe, "--scheduler", cluster, "--resource", "SLOT=1"]
    code, _, err = run(capsys, *arguments, "--out", tmp_path / "far")
    assert code == 0
    assert "a worker trains one trial at a time, however many threads it has" in err
    assert "offers" not in err
    assert run(capsys, "sweep", "run", recipe, "--workers", 1, "--out", tmp_path / "near")[0] == 0
    assert results(tmp_path / "far") == results(tmp_path / "near")
    code, out, _ = run(capsys, "sweep", "status", tmp_path / "far", "--watch")
    assert code == 0
    assert "4 done, 0 begun, 0 waiting" in out


def test_what_workers_lack_is_said(cluster, tmp_path):
    import distributed

    with execute.by_address(cluster) as client:
        assert "none of 1 workers offers GPU=1, SLOT=2" in execute.lacks(client, {"GPU": 1, "SLOT": 2})[0]
        assert len(execute.lacks(client, {"SLOT": 2})) == 1
        execute._stop(client, [])
        assert not signals.StopSignals().asked
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as empty,
        distributed.Client(empty) as client,
    ):
        assert "no worker has joined yet" in execute.lacks(client, {})[0]


@pytest.mark.parametrize("deaths", [2, 3])
def test_workers_that_die_before_they_are_ready_are_started_again(monkeypatch, deaths):
    """What Dask says when a worker is killed as it starts, and the one cluster that comes up after it."""
    import distributed

    tries = []

    def cluster(**settings):
        tries.append(settings["n_workers"])
        if len(tries) <= deaths:
            raise RuntimeError("Nanny failed to start.") from RuntimeError("Worker failed to start.")
        return "a cluster"

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    if deaths < execute.STARTS:
        assert execute._local_cluster(3) == "a cluster"
    else:
        with pytest.raises(
            RunError, match=r"3 worker processes could not be started.*\(RuntimeError: Worker failed to start\.\)"
        ):
            execute._local_cluster(3)
    assert tries == [3, 3, 3]


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, text_file):
    recipe = write_recipe(tmp_path / "recipe.yaml", text_file, steps=400, memories=(2, 3), seeds=(0,))
    driver = subprocess.Popen(
        command(recipe, tmp_path / "sweep", "--workers", 2), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    metrics, deadline = [], time.monotonic() + 60
    while len(metrics) < 2 and time.monotonic() < deadline:
        metrics = [path for path in (tmp_path / "sweep").glob("trials/*/metrics.jsonl") if path.stat().st_size]
        time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=90)
    assert driver.returncode == 130
    assert "run the same command to go on" in out
    begun = [seen for seen in Sweep.open(tmp_path / "sweep").look() if seen.state == "begun"]
    assert begun
    for seen in begun:
        saved = list((Sweep.open(tmp_path / "sweep").directory(seen.trial) / "checkpoints").glob("step-*"))
        assert saved, "stopped without saving"
    subprocess.run(command(recipe, tmp_path / "sweep", "--workers", 1), env=ENVIRONMENT, check=True)
    assert len(results(tmp_path / "sweep")) == 2


def test_a_sweep_may_be_driven_outside_the_main_thread():
    """Where signals cannot be caught."""

    class Client:
        def run(self, *arguments, **settings):
            return {}

    ended = []
    thread = threading.Thread(target=lambda: ended.append(execute.on_cluster(Client(), {}, print, {})))
    thread.start()
    thread.join()
    assert ended == [True]


def test_nobody_answers(tmp_path, text_file):
    recipe = write_recipe(tmp_path / "recipe.yaml", text_file, steps=20)
    done = subprocess.run(
        command(recipe, tmp_path / "sweep", "--scheduler", "tcp://127.0.0.1:9"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no Dask scheduler answers" in done.stderr
    assert "Traceback" not in done.stderr
