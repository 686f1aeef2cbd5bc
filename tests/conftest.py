"""Fixtures that several test folders share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_configure(config):
    """One thread a test: several test processes with a thread pool each only stand in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the repository, read-only; absent in a plain clone."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def small_phantom(tmp_path_factory):
    """A phantom store of 24 patients at 64 pixels, made once for all workers of a run; not to be written to."""
    from cxrmonai.data.phantom_store import write_phantom

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    path = shared / "small_phantom.h5"
    with open(shared / "small_phantom.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            write_phantom(path, patients=24, size=64, seed=0, progress=False)
    return path


def draw(seed, shape=(24, 20)):
    """Grey noise that no other seed makes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def png_folder(tmp_path):
    """`make(count, name=…)` fills a folder with `000.png`, `001.png`, … of `draw(k)`, and returns it."""

    def make(count, name="pngs", shape=(24, 20)):
        folder = tmp_path / name
        folder.mkdir()
        for k in range(count):
            Image.fromarray(draw(k, shape)).save(folder / f"{k:03d}.png")
        return folder

    make.draw = draw
    return make


@pytest.fixture
def store_contents():
    """`read(path)` gives every data set of a store by name."""

    def read(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: item[:]} if isinstance(item, h5py.Dataset) else {}))
        return found

    return read


@pytest.fixture
def same_stores(store_contents):
    """`check(first, second)` asserts that two stores hold the same data sets."""

    def check(first, second):
        one, other = store_contents(first), store_contents(second)
        assert {"images", "geometry", "labels", "table/split"} <= one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)

    return check


@pytest.fixture
def refused(capsys):
    """`refuse(*arguments)` runs the command line, wants a fault of the input, and returns its one line."""
    from cxrmonai.cli import main

    def refuse(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert left.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return refuse
