"""Two processes that share every batch, against one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training import clockless, lines, settings, what_remains

from elmnet.errors import ShapeError
from elmnet.tasks import open_task
from elmnet.tasks.sequence import SequenceTask
from elmnet.train.parallel import Team, group

SCRIPT = """
import sys, torch
from pathlib import Path
from conftest import network_config
from elmnet import ELMNetwork
from elmnet.train import parallel

torch.set_num_threads(1)
with parallel.group() as team:
    network = ELMNetwork(network_config(activation="identity"), seed=team.rank, backend="reference")
    team.spread(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    state, losses = None, []
    for _ in range(5):
        x, y = torch.randn(4, 5, 6, generator=generator), torch.randn(4, 5, 3, generator=generator)
        out, state = network(team.part(x), state)
        state = state.detach()
        loss = (out - team.part(y)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        team.average(network)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        losses.append(team.mean(loss.detach()).item())
    import torch.distributed.nn.functional  # as a library may, late
    torch.save((team.size, losses, network.state_dict()), f"{sys.argv[1]}/{team.rank}.pt")
threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads  # the group is really gone
"""


def run(folder: Path, processes: int) -> list:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    if processes > 1:  # what torchrun sets
        shared |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env={**shared, "RANK": str(rank)})
        for rank in range(processes)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_equal_one(tmp_path):
    ((alone, losses, weights),) = run(tmp_path / "one", 1)
    pair = run(tmp_path / "two", 2)
    assert alone == 1
    for size, shared_losses, shared_weights in pair:
        assert size == 2
        torch.testing.assert_close(shared_losses, losses, rtol=1e-5, atol=0)
        torch.testing.assert_close(shared_weights, weights, rtol=1e-4, atol=1e-5)
    for name, tensor in pair[0][2].items():
        assert torch.equal(tensor, pair[1][2][name]), f"the processes' {name} drifted apart"


def command(processes: int, *words: str) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else []), "-m", "elmnet", "train", *words]


def train(processes: int, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(processes, *words), capture_output=True, text=True, timeout=300)


def words_of(task: str, steps: int) -> list[str]:
    return [word for setting in settings(task, steps) for word in ("--set", setting)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_torchrun_trains_one_network(tmp_path, text_file):
    """Two processes, with carried state, resets and dropout, in float64, end as one does, within rounding; stopped by a
    signal and continued, as if nothing had happened, to the byte."""
    common = ["enwik8", "--data", str(text_file), *words_of("enwik8", 30), "--set", "dtype=float64"]
    for name, processes in (("one", 1), ("two", 2)):
        done = train(processes, *common, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test bpc") == 1  # one of them speaks
    one, two = (tmp_path / name for name in ("one", "two"))
    assert clockless(two).pop("processes") == 2
    assert clockless(two)["test"] == pytest.approx(clockless(one)["test"], rel=1e-9)
    for line, other in zip(*((p / "metrics.jsonl").read_text().splitlines() for p in (one, two)), strict=True):
        line, other = json.loads(line), json.loads(other)
        assert line.pop("event") == other.pop("event")
        assert line == pytest.approx(other, rel=1e-9)

    cut = tmp_path / "cut"
    process = subprocess.Popen(command(2, *common, "--out", str(cut)), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and lines(cut) < 12:
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert "stopping: saving first" in err
    assert not (cut / "result.json").exists()
    done = train(2, "--resume", str(cut))
    assert done.returncode == 0, done.stderr
    assert what_remains(cut) == what_remains(two)
    assert clockless(cut) == clockless(two)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_what_torchrun_cannot_share_is_refused(tmp_path, text_file):
    common = ["enwik8", "--data", str(text_file), *words_of("enwik8", 30), "--out", str(tmp_path / "run")]
    done = train(3, *common)
    assert "a batch of 4 cannot be shared equally by 3 processes" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_parts_of_uneven_batches_add_up(tmp_path, weights):
    """Sequences of different lengths, a target at every step, classes weighed or not: parts, put together by weight."""
    lengths = np.array([9, 2, 5, 7, 3, 4, 8, 6] * 4)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 9, 2)), rng.integers(3, size=(32, 9))
    np.savez(tmp_path / "own.npz", x=x, y=y, lengths=lengths)
    options = SequenceTask.Options.from_dict({**SequenceTask.preset("tiny")["options"], "class_weights": weights})
    task = open_task("sequence", options, str(tmp_path / "own.npz"), seed=0)
    batch = task.training_batch(0)
    out = torch.randn(*batch.x.shape[:2], task.outputs, dtype=torch.float64)
    parts = [
        task.loss(Team(rank, 2).part(out), Team(rank, 2).part(batch.y)) * task.weight(Team(rank, 2).part(batch.y))
        for rank in range(2)
    ]
    torch.testing.assert_close(sum(parts) / task.weight(batch.y), task.loss(out, batch.y))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ShapeError, match="a batch of 5 cannot be shared equally by 2 processes"):
        Team(0, 2).part(torch.zeros(5, 1))


def test_without_torchrun_a_team_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with group() as team:
        assert team == Team(0, 1)
        assert team.mean(torch.tensor(2.5)) == 2.5
        assert (team.most(3), team.tell(4), team.first) == (3, 4, True)
