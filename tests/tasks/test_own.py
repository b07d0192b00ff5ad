"""Tasks and scores of one's own: which way is up, and how other processes find them."""

import pytest

from elmnet import scores, tasks
from elmnet.errors import ConfigError, RunError
from elmnet.tasks import SHD, find_task, register
from elmnet.train.config import compose
from elmnet.train.run import RunDirectory

OWN = """
from elmnet import scores
from elmnet.tasks import SHD, register
scores.register("correlation", "r", larger_is_better=True)
register(type("Mine", (SHD,), {"name": "mine", "metric": "correlation"}))
"""


def test_a_metric_is_made_known_first(registries):
    mine = type("Mine", (SHD,), {"name": "mine", "metric": "correlation"})
    with pytest.raises(ConfigError, match="no score 'correlation': say whether more of it is better"):
        register(mine)
    scores.register("correlation", "r", larger_is_better=True)
    assert register(mine) is find_task("mine") is mine
    assert scores.larger_is_better("valid_correlation")
    assert (scores.labelled("correlation"), scores.labelled("mse")) == ("correlation (r)", "mse")
    assert scores.leading(["nats", "correlation", "mse"]) == "correlation"
    scores.register("correlation", "r", larger_is_better=True)  # a module may be imported twice
    for name in ("nats", "r2", "rmse"):
        with pytest.raises(ConfigError, match=f"there is a score '{name}' already"):
            scores.register(name, larger_is_better=True)


def test_scores_nobody_knows_are_shown_all_the_same():
    assert scores.leading(["mse"]) == "mse"
    assert scores.leading([]) == "nats"


@pytest.mark.parametrize("as_module", [False, True])
def test_tasks_are_found_by_the_environment(registries, monkeypatch, tmp_path, as_module):
    (tmp_path / "tasks_of_mine.py").write_text(OWN)
    place = str(tmp_path / "tasks_of_mine.py")
    if as_module:
        monkeypatch.syspath_prepend(tmp_path)
        place = "tasks_of_mine"
    with pytest.raises(ConfigError, match=r"no task 'mine'; known: .*; your own are found by ELMNET_TASKS"):
        find_task("mine")
    monkeypatch.setenv("ELMNET_TASKS", place)
    assert find_task("mine").metric == "correlation"
    assert scores.larger_is_better("correlation")


def test_tasks_are_found_in_installed_packages(registries, monkeypatch):
    mine = type("Mine", (SHD,), {"name": "mine"})

    class Entry:
        name = "mine"

        def load(self):
            return mine

    monkeypatch.setattr(tasks, "entry_points", lambda group: [Entry()] if group == "elmnet.tasks" else [])
    assert find_task("mine") is mine
    tasks.TASKS.pop("mine")
    tasks._load_own.cache_clear()
    mine.metric = "unheard of"
    with pytest.raises(
        ConfigError, match="the task of entry point mine cannot be used: ConfigError: no score 'unheard"
    ):
        find_task("mine")


def test_a_run_of_a_task_that_is_unknown_here_is_not_damaged(registries, tmp_path):
    register(type("Mine", (SHD,), {"name": "mine"}))
    run = RunDirectory(tmp_path)
    run.create(compose("mine"), {})
    assert run.read_config()[0].task == "mine"
    del tasks.TASKS["mine"]
    with pytest.raises(RunError, match=r"config\.yaml: no task 'mine'; .* ELMNET_TASKS \(modules or files\) or entry"):
        run.read_config()


def test_what_cannot_be_imported_is_said(registries, monkeypatch, tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_of_this_name")
    monkeypatch.setenv("ELMNET_TASKS", str(tmp_path / "bad.py"))
    with pytest.raises(
        ConfigError, match=r"ELMNET_TASKS: cannot import .*bad\.py: ModuleNotFoundError: No module named"
    ):
        find_task("mine")
