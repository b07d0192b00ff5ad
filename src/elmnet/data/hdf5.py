"""HDF5 files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from elmnet.files import write_atomic


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file to fill in memory; it replaces what was there once it is whole.

    HDF5 itself must not meet a full disk: it then crashes the process, or leaves objects that do so later.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    with h5py.File(path, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    write_atomic(path, image)
