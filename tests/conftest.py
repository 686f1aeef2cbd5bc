"""Fixtures that several test folders share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


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

    with _made_once(tmp_path_factory, "small_phantom.h5") as path:
        if not path.exists():
            write_phantom(path, patients=24, size=64, seed=0, progress=False)
    return path


@pytest.fixture(scope="session")
def extras(tmp_path_factory):
    """An environment for subprocesses in which the optional packages (nvflare, mlflow) are found as well.

    They lie beside the environment of the tests, since each Python that imports MONAI would load MLflow.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    with _made_once(tmp_path_factory, "extras") as folder:
        if not folder.exists() and uv is not None:
            command = [uv, "pip", "install", "--quiet", "--system-certs", "--python", sys.executable, "--no-deps"]
            lock = ROOT / "requirements-extras.lock"
            made = subprocess.run([*command, "--target", f"{folder}.new", "-r", lock], capture_output=True, text=True)
            if made.returncode == 0:
                Path(f"{folder}.new").rename(folder)
    if not folder.exists():
        pytest.skip("the optional packages of requirements-extras.lock could not be installed")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


@contextmanager
def _made_once(tmp_path_factory, name):
    """A path that all workers of a run share, while this one alone may make what is there."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared / name


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
