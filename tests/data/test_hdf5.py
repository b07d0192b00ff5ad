"""HDF5 files are whole or not there."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from elmnet.data.hdf5 import new_hdf5

FILL = """
import resource, sys
from pathlib import Path
import h5py, numpy as np
from elmnet.data.hdf5 import new_hdf5
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # what a full disk does, at this size
try:
    with new_hdf5(Path(sys.argv[1])) as file:
        rows = file.create_dataset("rows", (50,), h5py.vlen_dtype(np.float16))
        for i in range(50):
            rows[i] = np.zeros(200, np.float16)
        file["names"] = [b"a name"] * 50
except OSError as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_a_full_disk_is_an_error_of_the_disk_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "spikes.h5"
    with new_hdf5(path) as file:
        file["x"] = 1
    done = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"OSError: [Errno 27] File too large: '{path}'\n", done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["spikes.h5"]
    with h5py.File(path) as file:
        assert file["x"][()] == 1


def test_an_error_while_filling_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), new_hdf5(tmp_path / "x.h5") as file:
        file["x"] = np.zeros(3)
        raise RuntimeError("mine")
    assert not list(tmp_path.iterdir())
