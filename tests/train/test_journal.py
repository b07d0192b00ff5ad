import json

import pytest

from elmnet.train.journal import Journal, MetricsLog, validations
from elmnet.train.run import RunDirectory


def test_metrics_go_back_to_a_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write({"step": 1, "loss": 0.1})
    size = log.sync()
    log.write({"step": 2, "loss": float("nan")})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"step": 3, "lo')  # killed in the middle of a line
    log = MetricsLog(path, size)
    log.write({"step": 2, "loss": 0.3})
    log.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.1, 0.3]


def test_shorter_metrics_than_remembered_are_not_padded(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"{}\n")
    MetricsLog(path, 1000).close()
    assert path.read_bytes() == b"{}\n"


def test_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    """Means of the steps since the last written line, and seconds, run on in the next process."""
    seconds = [100.0]
    monkeypatch.setattr("elmnet.train.journal.time.monotonic", lambda: seconds[0])
    first = Journal(RunDirectory(tmp_path))
    first.open(0)
    first.count({"loss": 1.0})
    first.write({"event": "train", "step": 1, "loss": 1.0})
    first.forget()
    assert first.count({"loss": 2.0}) == {"loss": 2.0}
    first.training_seconds, seconds[0] = 5.0, 107.0
    numbers = json.loads(json.dumps(first.numbers()))
    first.write({"event": "train", "step": 3, "loss": 9.0})  # killed after this
    first.close()

    seconds[0] = 1000.0
    then = Journal(RunDirectory(tmp_path))
    then.load(numbers)
    seconds[0] = 1001.0  # loading is not training
    then.start_clocks()
    then.open(2)
    seconds[0] = 1003.0
    assert then.count({"loss": 4.0}) == {"loss": 3.0}
    assert then.training_seconds == 5.0
    assert then.cost()["wall_seconds"] == pytest.approx(9.0)
    then.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"event": "train", "step": 1, "loss": 1.0}\n'


def test_what_does_not_write_counts_all_the_same(tmp_path):
    journal = Journal(RunDirectory(tmp_path))  # as of a process that trains with another
    journal.write({"event": "train", "step": 1})
    journal.close()
    assert journal.count({"loss": 1.0}) == {"loss": 1.0}
    assert not list(tmp_path.iterdir())


def test_validations_are_told_from_other_lines():
    lines = [{"event": "train", "step": 1}, {"event": "valid", "step": 1, "bpc": 2.0}, {"step": 2}]
    assert validations(lines) == [lines[1]]
