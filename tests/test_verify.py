import json

import numpy as np
import pytest
import torch

from elmnet import verify
from elmnet.errors import BackendError, DataError

FILES = (
    "branch_filter_silu",
    "hidden_sequence",
    "lambda_scaled_relu_two_hidden",
    "pretrained_neuronio_dm15",
    "spiking",
    "two_layer_last_step_dropout",
    "two_layer_tokens",
)


def failures(checks):
    return [check for check in checks if not check.passed]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_golden_vectors(shared, name, dtype):
    checks = verify.verify_file(shared / "golden" / f"{name}.npz", dtype=dtype)
    assert failures(checks) == []
    wanted = {"logits", "loss", "layer0.final_state.m", "grad.layer0.w_s", "grad.linear.bias"}
    if name == "pretrained_neuronio_dm15":
        wanted = {"routing", "output", "eval_output"}
    assert wanted <= {check.name for check in checks}


def test_every_golden_file_is_in_the_list(shared):
    assert sorted(path.stem for path in (shared / "golden").glob("*.npz")) == sorted(FILES)


@pytest.mark.parametrize("key", ["logits", "loss", "grad.layer0.w_s", "layer0.final_state.m"])
def test_a_wrong_golden_value_is_noticed(shared, tmp_path, key):
    with np.load(shared / "golden" / "hidden_sequence.npz") as file:
        arrays = dict(file)
    arrays[key] = arrays[key] * (1 + 1e-6)
    np.savez(tmp_path / "wrong.npz", **arrays)
    assert [check.name for check in failures(verify.verify_file(tmp_path / "wrong.npz"))] == [key]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_self_check_passes(dtype):
    assert failures(verify.self_check(dtype=dtype)) == []


def test_self_check_notices_a_wrong_model(monkeypatch):
    from elmnet.ops import reference

    monkeypatch.setattr(reference, "compress", lambda u: 1.716 * torch.tanh(u * (2 / 3)))
    assert failures(verify.self_check(backend="reference"))


def test_nan_never_passes():
    assert not verify.Check("x", float("nan"), 1.0).passed


def test_a_backend_that_breaks_is_no_damaged_file(shared, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr("elmnet.network.ELMNetwork.forward", broken)
    with pytest.raises(BackendError, match="'reference' broke while it ran: RuntimeError: an illegal memory access"):
        verify.verify_file(shared / "golden" / "hidden_sequence.npz", backend="reference")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="not a readable golden file"):
        verify.verify_file(path)
    np.savez(path, config=json.dumps({"layers": []}))
    with pytest.raises(DataError, match="not a readable golden file"):
        verify.verify_file(path)
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"it is no \.npz archive"):
        verify.verify_file(path)
    with pytest.raises(DataError, match="nowhere"):
        verify.verify_file(tmp_path / "nowhere.npz")
