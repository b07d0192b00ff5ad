"""Two processes that share every batch, against one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elmnet.errors import ShapeError
from elmnet.train.parallel import Team, group

SCRIPT = """
import sys, torch
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
        losses.append(team.mean(loss.item()))
    torch.save((team.size, losses, network.state_dict()), f"{sys.argv[1]}/{team.rank}.pt")
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


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ShapeError, match="a batch of 5 cannot be shared equally by 2 processes"):
        Team(0, 2).part(torch.zeros(5, 1))


def test_without_torchrun_a_team_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with group() as team:
        assert team == Team(0, 1)
        assert team.mean(2.5) == 2.5
