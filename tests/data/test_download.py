import gc
import hashlib
import http.server
import threading
import warnings
import zipfile
from pathlib import Path

import pytest
from conftest import run, write_spikes

from elmnet.data import download, spikes, text
from elmnet.errors import DataError


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A web server on this machine that stands for the official address, and an empty cache."""
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "enwik8.zip", "w") as archive:
        archive.writestr("enwik8", b"official text " * 300)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(site))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((site / "enwik8.zip").read_bytes()).hexdigest()
    file = download.RemoteFile(
        "enwik8.zip", f"http://127.0.0.1:{server.server_port}/enwik8.zip", f"sha256:{digest}", "none"
    )
    monkeypatch.setitem(download.OFFICIAL, "enwik8", (file,))
    monkeypatch.setenv("ELMNET_CACHE", str(tmp_path / "cache"))
    yield site
    server.shutdown()
    server.server_close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # pooch leaves its session's sockets to the collector


def test_downloads_once_and_reads(served, tmp_path):
    assert text.load_corpus("official").data == b"official text " * 300
    (served / "enwik8.zip").unlink()
    assert text.load_corpus("official").name == "enwik8"


def test_get_says_where_the_files_are(served, tmp_path, capsys):
    code, out, _ = run(capsys, "data", "get", "enwik8")
    assert code == 0
    assert out.strip() == str(tmp_path / "cache" / "enwik8.zip")
    assert Path(out.strip()).read_bytes() == (served / "enwik8.zip").read_bytes()
    code, _, err = run(capsys, "data", "get", "enwik9")
    assert code != 0
    assert "known: enwik8, shd, synthetic" in err


def test_official_spikes_are_unpacked_once(served, tmp_path, monkeypatch):
    files = []
    for part in ("train", "test"):
        name = f"shd_{part}.h5"
        write_spikes(tmp_path / name, classes=20)
        with zipfile.ZipFile(served / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / name, name)
        digest = hashlib.md5((served / f"{name}.zip").read_bytes()).hexdigest()
        url = download.OFFICIAL["enwik8"][0].url.replace("enwik8.zip", f"{name}.zip")
        files.append(download.RemoteFile(f"{name}.zip", url, f"md5:{digest}", "none"))
    monkeypatch.setitem(download.OFFICIAL, "shd", tuple(files))
    corpus = spikes.load_spike_corpus("official")
    assert corpus.name == "Spiking Heidelberg Digits"
    assert corpus.train.classes == 20
    assert spikes.load_spike_corpus("official").train.sha256 == corpus.train.sha256


def test_wrong_hash_is_refused_and_not_kept(served, tmp_path):
    (served / "enwik8.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match="could not download"):
        download.fetch("enwik8")
    assert not (tmp_path / "cache" / "enwik8.zip").exists()


def test_missing_network_says_what_to_do_by_hand(served, tmp_path):
    (served / "enwik8.zip").unlink()
    with pytest.raises(DataError) as refused:
        download.fetch("enwik8")
    words = str(refused.value)
    assert "Fetch it by hand" in words
    assert str(tmp_path / "cache" / "enwik8.zip") in words
    assert "--data PATH" in words


def test_damaged_cache_is_noticed(served, tmp_path):
    download.fetch("enwik8")
    (tmp_path / "cache" / "enwik8.zip").write_bytes(b"rotten")
    with pytest.raises(DataError, match="damaged or not the official file"):
        download.fetch("enwik8")


def test_cache_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ELMNET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set ELMNET_CACHE"):
        download.cache_directory()


def test_official_hashes_are_the_published_ones():
    assert download.OFFICIAL["enwik8"][0].hash.startswith("sha256:547994d9")
    assert [file.hash[:8] for file in download.OFFICIAL["shd"]] == ["md5:f325", "md5:1503"]
