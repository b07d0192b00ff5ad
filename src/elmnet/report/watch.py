"""The live page: what runs and sweeps below a directory are doing, served to this machine.

The server is the standard library's: one page, one address to refresh it from, nobody else's requests. It reads and
never writes, and whatever a directory holds it goes on.
"""

import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

from elmnet import models, tables
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, one_line
from elmnet.report import figures
from elmnet.report.interactive import picture
from elmnet.report.page import asset, digest, template
from elmnet.scores import UNITS, leading
from elmnet.sweep.store import LOST, STATES, UNFINISHED, Seen, State, Sweep
from elmnet.train.journal import read_metrics, validations
from elmnet.train.run import RunDirectory

ROWS = 200
PLACES = 30
FRESH = 1.0
"""Seconds for which an answer serves everybody who asks."""
ORDER: tuple[State, ...] = ("begun", *LOST, *STATES)
"""What is trained and what went wrong come first."""


@dataclass
class Place:
    """A run or a sweep as it stands."""

    title: str
    words: list[str] = field(default_factory=list)
    done: int = 0
    total: int = 0
    unit: str = ""
    columns: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    svg: str = ""
    about: str = ""


def look(directory: Path) -> list[Place]:
    """The run or sweep at a directory, or those directly or two levels below it, newest first; reads only."""
    places = []
    for number, path in enumerate(_found(directory)):
        place = Place(str(path.relative_to(directory)) if path != directory else path.resolve().name)
        try:
            (_sweep if (path / "sweep.json").exists() else _run)(place, path, f"f{number}")
        except Exception as error:  # a damaged directory must not hide the others
            place.words = [f"cannot be read: {one_line(error)}"]
        places.append(place)
    return places


def _found(directory: Path) -> list[Path]:
    def is_one(path: Path) -> bool:
        return (path / "sweep.json").exists() or (path / "config.yaml").exists()

    if is_one(directory):
        return [directory]
    found = [path for path in _below(directory) if is_one(path)]
    inner = [path for outer in _below(directory) if outer not in found for path in _below(outer) if is_one(path)]
    return sorted(found + inner, key=_touched, reverse=True)[:PLACES]


def _below(directory: Path) -> Iterator[Path]:
    try:
        yield from (path for path in sorted(directory.iterdir()) if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return


def _touched(path: Path) -> float:
    times = [file.stat().st_mtime for name in ("metrics.jsonl", "sweep.json") if (file := path / name).exists()]
    return max(times, default=0.0)


def _run(place: Place, path: Path, key: str) -> None:
    run = RunDirectory.open(path)
    config, facts = run.read_config()
    result, lines = run.read_result(), read_metrics(run.metrics_file)
    place.words = [f"{config.task} on {facts.get('name', config.data)}"]
    place.done, place.total, place.unit = _steps(lines), config.training.steps, "steps"
    if result is not None:
        place.words.append("Finished: test " + _scores(result["test"]))
    elif valid := validations(lines):
        place.words.append("Last validation: " + _scores(valid[-1]))
    if lines:
        place.svg = picture(lambda: figures.learning_curve(lines), key).svg
        place.about = "The training loss and the validation score, by training step."


def _steps(lines: Sequence[dict[str, Any]]) -> int:
    return max((int(line["step"]) for line in lines), default=0)


def _scores(scores: dict[str, Any]) -> str:
    return ", ".join(f"{name} {tables.score(scores[name])}" for name in UNITS if name in scores) + "."


def _sweep(place: Place, path: Path, key: str) -> None:
    sweep = Sweep.open(path)
    seen = sorted(sweep.look(), key=lambda one: (ORDER.index(one.state), -one.step))
    states = Counter(one.state for one in seen)
    place.words = [f"Sweep {sweep.name}: " + ", ".join(f"{count} {state}" for state, count in states.items()) + "."]
    place.done, place.total, place.unit = sum(one.state not in UNFINISHED for one in seen), len(seen), "trials"
    place.columns = ("trial", "state", "model", "N", "d_m", "seed", "step", "validation", "why")
    lines = {one.trial.name: _validations(sweep, one) for one in seen[:ROWS] if one.state != "waiting"}
    place.rows = [_row(one, lines.get(one.trial.name, [])) for one in seen[:ROWS]]
    if len(seen) > ROWS:
        place.words.append(f"The table shows the first {ROWS}.")
    learned = [
        (model.layers[0].neuron.memory, lines.get(one.trial.name, []))
        for one in seen[:ROWS]
        if isinstance(model := one.trial.network, NetworkConfig)
    ]
    shown = [one for one in learned if one[1]]
    if shown:
        score = leading(shown[0][1][0])
        place.svg = picture(lambda: figures.learning_curves(shown, score), key).svg
        place.about = "Validation score of every run by training step, coloured by d_m."


def _validations(sweep: Sweep, one: Seen) -> list[dict[str, Any]]:
    return validations(read_metrics(sweep.directory(one.trial) / "metrics.jsonl"))


def _row(one: Seen, valid: Sequence[dict[str, Any]]) -> Sequence[str]:
    model, config = one.trial.network, one.trial.config
    memory = f"{model.layers[0].neuron.memory:,}" if isinstance(model, NetworkConfig) else ""
    score = _scores(valid[-1]).rstrip(".") if valid else ""
    shape = (models.kind_of(model), f"{models.counts(model).units:,}", memory, str(config.seed))
    step = f"{one.step:,} of {config.training.steps:,}"
    return (one.trial.name, one.state, *shape, step, score, one.reason or "")


class Page:
    """The page and its content, made at most once a second."""

    def __init__(self, directory: Path) -> None:
        self.title = str(directory)
        self._directory = directory
        self._lock = threading.Lock()  # matplotlib draws one figure at a time
        self._places: list[Place] = []
        self._made = -FRESH
        self.script = asset("live.js")
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'"
        self.policy = f"{policy}; script-src 'sha256-{digest(self.script)}'; frame-ancestors 'none'; base-uri 'none'"

    def render(self, *, whole: bool) -> str:
        """The whole page, or what its script puts into it."""
        with self._lock:
            if time.monotonic() - self._made >= FRESH:
                self._places, self._made = look(self._directory), time.monotonic()
            return template("live.html.j2").render(
                whole=whole,
                places=self._places,
                title=self.title,
                version=metadata.version("elmnet"),
                style=asset("page.css"),
                script=self.script,
            )


class _Handler(BaseHTTPRequestHandler):
    """GET / and GET /content, asked for under this machine's name."""

    page: Page
    names: frozenset[str]
    timeout = 20
    server_version = "elmnet"
    sys_version = ""

    def do_GET(self) -> None:
        if not is_ours(self.headers.get("Host", ""), self.names):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to its own address alone\n", "text/plain")
        elif self.path in ("/", "/content"):
            self._answer(HTTPStatus.OK, self.page.render(whole=self.path == "/"), "text/html")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "not found\n", "text/plain")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "this page can only be read\n", "text/plain")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.page.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            **({"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nobody's business."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who goes away is no error."""


def is_ours(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header names this server by an address, as `localhost`, or as it was told to be called.

    A page elsewhere can make a name of its own point here (DNS rebinding), but it cannot make the browser send another
    Host than that name.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name.lower() in names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def server(directory: Path, *, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and waits for `serve_forever`.

    Raises:
        ConfigError: there is no such directory, the address is taken, or the extra is missing.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory; name a run, a sweep, or a directory of these")
    handler = type("Handler", (_Handler,), {"page": Page(directory), "names": frozenset({"localhost", host.lower()})})
    try:
        return _Server((host, port), handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error}; try --port 0") from None


def serve(directory: Path, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the live page until Ctrl-C.

    Args:
        directory: of runs and sweeps.
        host: to bind to.
        port: 0 takes any free one.
        announce: is told the page's address.

    Raises:
        ConfigError: as `server`.
    """
    with server(directory, host=host, port=port) as listening:
        try:
            announce(f"http://{host}:{listening.server_port}/")
            listening.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return
