"""The live page: shows runs as they go, survives what is broken, answers this machine alone and reads only."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from conftest import run as command

from elmnet.report import watch
from elmnet.sweep import store
from elmnet.train.config import compose
from elmnet.train.run import RunDirectory

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")
EVIL = "<script>alert(1)</script>"


def lines(*steps):
    made = ({"event": "train", "step": step, "cross_entropy": 5 - step / 100} for step in steps)
    return "".join(json.dumps(line) + "\n" for line in made)


@pytest.fixture
def place(tmp_path):
    """A run that has begun, and directories that hold nothing good."""
    run = RunDirectory(tmp_path / "good")
    run.create(compose("enwik8"), {"name": EVIL})
    run.metrics_file.write_text(lines(10, 20) + '{"event": "tra')
    for name, file, text in (
        ("bad-yaml", "config.yaml", "config: ["),
        ("bad-bytes", "config.yaml", "\udcff"),
        ("bad-sweep", "sweep.json", '{"trials": 3}'),
        ("bad-trial", "sweep.json", '{"trials": {"a": {}}}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(text.encode(errors="surrogateescape"))
    shutil.copytree(tmp_path / "good", tmp_path / "bad-result")
    (tmp_path / "bad-result" / "result.json").write_text("[]")
    return tmp_path


@pytest.fixture
def listening(place):
    with watch.server(place, host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path="/", method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_what_is_broken_is_named_beside_what_runs(place):
    found = {one.title: one for one in watch.look(place)}
    assert (found["good"].done, found["good"].unit) == (20, "steps")
    assert found["good"].svg.startswith("<svg")
    for name in ("bad-yaml", "bad-bytes", "bad-sweep", "bad-trial", "bad-result"):
        assert found[name].words[0].startswith("cannot be read: "), name


def test_answers_are_for_this_machine_and_for_reading(listening):
    answer, body = ask(listening)
    assert answer.status == 200
    assert EVIL not in body
    assert "&lt;script&gt;alert(1)" in body
    assert "script-src 'sha256-" in answer.headers["Content-Security-Policy"]
    assert ask(listening, host="evil.example")[0].status == 421
    assert ask(listening, host=f"localhost:{listening.server_port}")[0].status == 200
    assert [ask(listening, method=method)[0].status for method in ("POST", "PUT", "DELETE", "OPTIONS")] == [405] * 4
    assert [ask(listening, path)[0].status for path in ("/../../etc/passwd", "/good/config.yaml")] == [404, 404]
    assert ask(listening, method="HEAD")[1] == ""


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("10.1.2.3:8", True),
        ("here.example:80", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_names_of_this_server(host, ours):
    assert watch.is_ours(host, frozenset({"localhost", "here.example"})) is ours


def test_the_page_follows_a_run(visit, listening, place, monkeypatch):
    monkeypatch.setattr(watch, "FRESH", 0.0)
    page = visit(f"http://127.0.0.1:{listening.server_port}/")
    assert "20 of 600 steps" in page.inner_text("main")
    assert page.locator("main script").count() == 0
    with (place / "good" / "metrics.jsonl").open("a") as file:
        file.write("\n" + lines(30))
    page.get_by_text("30 of 600 steps").first.wait_for(timeout=30_000)


def test_everybody_can_read_the_page(visit, listening):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    result = axe.Axe().run(visit(f"http://127.0.0.1:{listening.server_port}/", 390))
    assert result.violations_count == 0, result.generate_report()


def test_an_empty_directory_is_waited_for(tmp_path):
    assert watch.look(tmp_path) == []
    assert "No run and no sweep here yet" in watch.Page(tmp_path).render(whole=True)


def test_refusals_in_words(capsys, tmp_path, listening):
    code, _, err = command(capsys, "watch", tmp_path / "nowhere")
    assert (code, "no such directory" in err) == (2, True)
    code, _, err = command(capsys, "watch", tmp_path, "--port", listening.server_port)
    assert (code, "try --port 0" in err) == (2, True)


def test_ctrl_c_ends_it_cleanly(place):
    def heed():  # a shell's background job, as these tests may be, hands on that SIGINT is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    arguments = [sys.executable, "-m", "elmnet", "watch", str(place)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **pipes, preexec_fn=heed) as process:
        try:
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_what_is_trained_and_what_went_wrong_come_first():
    assert sorted(store.STATES, key=watch.ORDER.index) == ["begun", *store.LOST, "done", "waiting"]
