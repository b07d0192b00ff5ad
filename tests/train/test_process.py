"""Training, scoring and asking leave torch's threads and random numbers as they found them."""

import pytest
import torch
from training import config_of

from elmnet.train import loop
from elmnet.train.process import borrowed
from elmnet.train.progress import Reporter
from elmnet.train.trained import Run


@pytest.fixture
def mine():
    """What a user has set, and a question whether it still stands."""
    torch.set_num_threads(2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    return lambda: torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), before)


class Seeing(Reporter):
    def logged(self, record):
        self.threads = torch.get_num_threads()


def test_a_run_as_an_object_takes_nothing(tmp_path, text_file, mine):
    config, _ = config_of("enwik8", text_file, steps=2)
    reporter = Seeing(quiet=True)
    run = Run.train(config, tmp_path / "run", reporter=reporter)
    assert mine() and reporter.threads == 1
    assert run.network and mine()
    seen: list[int] = []
    run.evaluate("valid", advance=lambda: seen.append(torch.get_num_threads()))
    assert mine() and set(seen) == {1}
    for _ in run.generate("the", length=3):
        assert mine()
    (tmp_path / "run" / "result.json").unlink()
    loop.resume(tmp_path / "run", reporter=reporter)
    assert mine()


def test_replicas_take_nothing(tmp_path, text_file, mine):
    config, _ = config_of("enwik8", text_file, steps=2)
    loop.together({tmp_path / f"{seed}": config.replace(seed=seed) for seed in (0, 1)}, reporter=Reporter(quiet=True))
    assert mine()
    assert loop.together({}) == {}


def test_they_are_given_back_after_an_error(text_file, mine):
    config, _ = config_of("enwik8", text_file)
    with pytest.raises(KeyError), borrowed(config):
        assert torch.get_num_threads() == 1
        torch.manual_seed(1)
        raise KeyError
    assert mine()
