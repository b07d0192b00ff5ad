import pytest
import torch
from conftest import network_config, run

from elmnet import ELMNetwork
from elmnet.interop.equinox import write_network
from elmnet.models import build, choose


@pytest.fixture
def saved(tmp_path):
    ELMNetwork(network_config(), seed=0).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def test_an_eqx_file_goes_out_and_comes_in(capsys, tmp_path, saved):
    code, out, _ = run(capsys, "export", saved, "--format", "eqx", "--out", tmp_path / "theirs.eqx")
    assert code == 0
    assert "theirs.eqx and " in out
    code, out, _ = run(capsys, "import", tmp_path / "theirs.eqx", "--out", tmp_path / "own")
    assert code == 0
    assert "own: 5 × d_m 3, 3 × d_m 3, P " in out
    one, other = (ELMNetwork.from_pretrained(place) for place in (saved, tmp_path / "own"))
    x = torch.randn(1, 4, 6)
    assert torch.equal(one(x)[0], other(x)[0])


def test_import_overwrites_nothing(capsys, tmp_path, saved):
    write_network(ELMNetwork.from_pretrained(saved), tmp_path / "theirs.eqx")
    before = (saved / "model.safetensors").read_bytes()
    code, _, err = run(capsys, "import", tmp_path / "theirs.eqx", "--out", saved)
    assert code == 1
    assert "is not an empty directory" in err
    assert (saved / "model.safetensors").read_bytes() == before


def test_export_to_onnx_checks_what_it_wrote(capsys, tmp_path, saved):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra `interop`)")
    code, out, _ = run(capsys, "export", saved, "--out", tmp_path / "net.onnx")
    assert code == 0
    assert "differs from elmnet by at most " in out
    assert float(out.split("at most ")[1].split()[0]) < 1e-5


def test_the_ending_says_the_format(capsys, tmp_path, saved):
    assert run(capsys, "export", saved, "--out", tmp_path / "new" / "net.h")[0] == 0
    assert (tmp_path / "new" / "net.h").read_text().startswith("/*")
    assert run(capsys, "export", saved, "--out", tmp_path / "new" / "net.eqx")[0] == 0
    before = (tmp_path / "new" / "net.h").read_bytes()
    code, _, err = run(capsys, "export", saved, "--format", "onnx", "--out", tmp_path / "new" / "net.h")
    assert code == 2 and "has the ending of c, --format asks for onnx" in " ".join(err.split())
    code, _, err = run(capsys, "export", saved, "--out", tmp_path / "net")
    words = "name the format by the ending, .onnx, .pt2, .h, .hpp, .eqx, or by --format"
    assert code == 2 and words in " ".join(err.split())
    assert (tmp_path / "new" / "net.h").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "nir"], "NIR's primitives hold no"),
        (["--format", "torch-export", "--sequence"], "give --length"),
        (["--format", "onnx", "--sequence", "--length", "3"], "--length goes with"),
        (["--format", "eqx", "--sequence"], "leave out --sequence"),
    ],
)
def test_what_a_format_cannot_do_is_said(capsys, tmp_path, saved, arguments, words):
    code, _, err = run(capsys, "export", saved, *arguments, "--out", tmp_path / "x")
    assert code == 2
    assert words in err
    assert not (tmp_path / "x").exists()


def test_two_networks_do_not_share_a_configuration(capsys, tmp_path, saved):
    """An .eqx file is read by the model_config.json beside it."""
    assert run(capsys, "export", saved, "--out", tmp_path / "a.eqx", "--format", "eqx")[0] == 0
    assert run(capsys, "export", saved, "--out", tmp_path / "b.eqx", "--format", "eqx")[0] == 0
    other = ELMNetwork(network_config(units=9), seed=0)
    other.save_pretrained(tmp_path / "other")
    code, _, err = run(capsys, "export", tmp_path / "other", "--out", tmp_path / "c.eqx", "--format", "eqx")
    assert code == 1 and "describes another network, that of" in " ".join(err.split())
    assert not (tmp_path / "c.eqx").exists()


def test_export_of_nothing_is_refused(capsys, tmp_path):
    code, _, err = run(capsys, "export", tmp_path, "--out", tmp_path / "x.onnx")
    assert code == 1
    assert "cannot be read as a network configuration" in err


@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_an_export_that_computes_something_else_is_not_kept(monkeypatch, capsys, tmp_path, saved, difference):
    from elmnet.interop import graphs

    monkeypatch.setattr(graphs, "export_onnx", lambda network, path, **_: path.write_bytes(b"a graph"))
    monkeypatch.setattr(graphs, "check_onnx", lambda network, path, **_: difference)
    (tmp_path / "net.onnx").write_bytes(b"an older one")
    code, _, err = run(capsys, "export", saved, "--out", tmp_path / "net.onnx")
    assert code == 1
    assert f"differed from elmnet by {difference:.1e} in ONNX Runtime; not written" in err
    assert [file.read_bytes() for file in tmp_path.glob("*net.onnx*")] == [b"an older one"]


@pytest.mark.parametrize("form", ["onnx", "torch-export", "eqx"])
def test_other_networks_are_not_exported(capsys, tmp_path, form):
    build(choose("gru", network_config()), seed=0).save_pretrained(tmp_path / "gru")
    code, _, err = run(capsys, "export", tmp_path / "gru", "--format", form, "--out", tmp_path / "x")
    assert code == 2
    assert "holds a gru; only ELM networks can be exported" in " ".join(err.split())
