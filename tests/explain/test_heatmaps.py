import h5py
import numpy as np
import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.explain import Heatmaps, HeatmapWriter


def write(path, dtype="uint8", count=5):
    maps = np.random.default_rng(0).random((count, 2, 16, 16)).astype(np.float32)
    probability = np.random.default_rng(1).random((count, 2)).astype(np.float32)
    with HeatmapWriter(path, ["A", "B"], 16, "cam", "s.h5", dtype) as writer:
        for some in (slice(0, 3), slice(3, count)):
            ids = [f"bild ä{k}" for k in range(count)][some]
            writer.add(np.arange(count)[some] + 7, ids, torch.from_numpy(maps[some]), probability[some])
    return maps, probability


@pytest.mark.parametrize(("dtype", "step"), [("uint8", 0.5 / 255 + 1e-6), ("float16", 1e-3)])
def test_gives_back_what_was_written(tmp_path, dtype, step):
    maps, probability = write(tmp_path / "h.h5", dtype)
    found = Heatmaps(tmp_path / "h.h5")
    assert (found.class_names, found.size, found.method, found.data_file) == (["A", "B"], 16, "cam", "s.h5")
    assert found.image_ids == [f"bild ä{k}" for k in range(5)]
    assert found.rows.tolist() == [7, 8, 9, 10, 11]
    np.testing.assert_array_equal(found.probability, probability)
    np.testing.assert_allclose(found.maps([4, 0]), maps[[4, 0]], atol=step)
    assert found.maps([4, 0]).dtype == np.float32
    assert found.maps([]).shape == (0, 2, 16, 16)
    with h5py.File(tmp_path / "h.h5") as file:
        assert file["maps"].chunks == (1, 1, 16, 16)
        assert file["maps"].compression == "gzip"


def test_leaves_nothing_where_it_fails(tmp_path):
    with pytest.raises(RuntimeError, match="broken"), HeatmapWriter(tmp_path / "h.h5", ["A"], 8, "cam", "s.h5"):
        raise RuntimeError("broken")
    assert list(tmp_path.iterdir()) == []


def test_refuses(tmp_path):
    with pytest.raises(CxrError, match="dtype 'int8'"):
        HeatmapWriter(tmp_path / "h.h5", ["A"], 8, "cam", "s.h5", "int8")
    for maps, words in ((np.zeros((1, 2, 8, 8)), "shape"), (np.full((1, 1, 8, 8), 2.0), "0–1")):
        with pytest.raises(CxrError, match=words), HeatmapWriter(tmp_path / "h.h5", ["A"], 8, "cam", "s") as writer:
            writer.add([0], ["a"], maps, np.zeros((1, 1)))
    with pytest.raises(CxrError, match="no such file"):
        Heatmaps(tmp_path / "h.h5")
    (tmp_path / "h.h5").write_text("x")
    with pytest.raises(CxrError, match="HDF5"):
        Heatmaps(tmp_path / "h.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(CxrError, match="holds no heatmaps"):
        Heatmaps(tmp_path / "other.h5")
