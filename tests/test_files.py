import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from elmnet.files import recover_directory, replace_directory, write_atomic


def names(directory):
    return [path.name for path in directory.iterdir()]


def fill_with(text):
    return lambda directory: (directory / "file").write_text(text)


def test_write_atomic_replaces(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two"
    assert names(tmp_path) == ["a.txt"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "one")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "two")
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


def test_the_directory_is_made_and_errors_name_the_file(tmp_path):
    write_atomic(tmp_path / "new" / "deep" / "a.txt", "one")
    assert (tmp_path / "new" / "deep" / "a.txt").read_text() == "one"
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "taken", "one")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "taken"), None)
    assert names(tmp_path) == ["new", "taken"]


def test_threads_may_write_one_file(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_atomic(tmp_path / "a.txt", str(i) * 10_000), range(64)))
    assert len(set((tmp_path / "a.txt").read_text())) <= 2
    assert names(tmp_path) == ["a.txt"]


def test_replace_directory_swaps_whole_directories(tmp_path):
    place = tmp_path / "best"
    replace_directory(place, fill_with("one"))
    replace_directory(place, fill_with("two"))
    assert (place / "file").read_text() == "two"
    assert names(tmp_path) == ["best"]


def test_failed_fill_leaves_the_old_directory(tmp_path):
    place = tmp_path / "best"
    replace_directory(place, fill_with("one"))

    def fail(directory):
        (directory / "file").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_directory(place, fail)
    assert (place / "file").read_text() == "one"
    assert names(tmp_path) == ["best"]


def test_a_crash_between_the_renames_is_undone(tmp_path):
    place = tmp_path / "best"
    replace_directory(place, fill_with("one"))
    place.rename(tmp_path / ".best.old")
    recover_directory(place)
    assert (place / "file").read_text() == "one"


def test_file_size_limit_as_a_full_disk(tmp_path):
    """A real refusal by the operating system, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from elmnet.files import write_atomic\n"
        "try: write_atomic(Path(sys.argv[1]), b'x' * 100_000)\n"
        "except OSError as error: sys.exit(7)"
    )
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run([sys.executable, "-c", code, str(path)], preexec_fn=limit, check=False)
    assert done.returncode == 7
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
