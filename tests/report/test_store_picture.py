"""The picture of a store: what is drawn, by the texts and bars of the figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.quality import CopyGroup, Findings
from cxrmonai.data.store import Store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError
from cxrmonai.report.store_picture import draw_rows, draw_store, store_figure

COUNT = 40


def write(path, labels=None, count=COUNT, dtype=np.uint8, size=32, **columns):
    random = np.random.default_rng(0)
    given = {
        "image": [f"SECRET-folder/{k}.png" for k in range(count)],
        "image_id": [f"SECRET-image-{k}" for k in range(count)],
        "patient_id": [f"SECRET-patient-{k // 2}" for k in range(count)],
        "study_id": [f"SECRET-study-{k}" for k in range(count)],
        **columns,
    }
    write_store(
        path,
        images=random.integers(0, np.iinfo(dtype).max, (count, size, size)).astype(dtype),
        geometry=np.tile(letterbox_geometry(size, size, size), (count, 1)),
        table=make_table(given, labels),
        class_names=[] if labels is None else list(labels),
        source="somewhere",
    )
    return Store(path)


def texts(figure):
    """What is written, the names of axes and figures included, and nothing that is not shown."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.get_axes() if axes.get_title(loc="left")]


def panel(figure, title):
    (axes,) = [axes for axes in figure.get_axes() if axes.get_title(loc="left").startswith(title)]
    return axes


def pictures(figure):
    return [axes for axes in figure.get_axes() if axes.get_images()]


def captions(figure):
    return [axes.get_xlabel() for axes in pictures(figure)]


def ticks(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_a_whole_store(small_phantom):
    store = Store(small_phantom)
    figure = store_figure(store, Findings(len(store)))
    assert titles(figure) == ["Images by finding", "Age in years", "Sex", "View", "Split"]
    (title,) = [text for text in texts(figure) if "radiographs" in text]
    assert title == f"{len(store)} SYNTHETIC radiographs of 24 patients   ·   64 × 64 px   ·   phantom"
    assert len(pictures(figure)) == 24
    assert "To check" not in texts(figure)


def test_the_file_is_written_whole(small_phantom, tmp_path):
    path = draw_store(Store(small_phantom), None, tmp_path / "new" / "look.png")
    assert path == tmp_path / "new" / "look.png"
    assert [each.name for each in path.parent.iterdir()] == ["look.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1800
        assert 1200 <= image.height <= 1600
    again = draw_store(Store(small_phantom), None, tmp_path / "again.png")
    assert again.read_bytes() == path.read_bytes()


def test_a_path_that_cannot_be_written(small_phantom, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CxrError, match="cannot write here"):
        draw_store(Store(small_phantom), None, tmp_path / "file" / "look.png")


def test_what_is_unknown_is_left_out(tmp_path):
    figure = store_figure(write(tmp_path / "a.h5"), None)
    assert titles(figure) == []
    assert captions(figure) == [""] * 24
    assert "40 radiographs of 20 patients   ·   32 × 32 px   ·   somewhere" in texts(figure)


def test_labels_that_are_all_unknown_are_no_panel(tmp_path):
    labels = pd.DataFrame({"Mass": [np.nan] * COUNT})
    assert titles(store_figure(write(tmp_path / "a.h5", labels, split=["train"] * COUNT), None)) == ["Split"]


def test_patients_are_not_counted_where_each_image_has_its_own(tmp_path):
    figure = store_figure(write(tmp_path / "a.h5", patient_id=[str(k) for k in range(COUNT)]), None)
    assert "40 radiographs   ·   32 × 32 px   ·   somewhere" in texts(figure)


def test_counts_per_finding(tmp_path):
    labels = pd.DataFrame(
        {"Rare": [1.0] * 3 + [0.0] * 30 + [-1.0] * 2 + [np.nan] * 5, "Often": [1.0] * 25 + [0.0] * 15}
    )
    axes = panel(store_figure(write(tmp_path / "a.h5", labels), None), "Images by finding")
    assert axes.get_title(loc="left") == "Images by finding"
    assert ticks(axes) == ["Often", "Rare"]
    assert widths(axes) == [25, 3, 0, 2, 15, 30, 0, 5]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["present", "uncertain", "absent", "unknown"]
    assert [text.get_text() for text in axes.texts] == ["25", "3"]


def test_thirty_findings_are_drawn_and_the_rest_counted(tmp_path):
    labels = pd.DataFrame({f"Finding {k}": np.arange(COUNT) < k for k in range(34)}).astype(float)
    labels["A name that is so long that it would not leave room"] = 1.0
    axes = panel(store_figure(write(tmp_path / "a.h5", labels), None), "Images by finding")
    assert axes.get_title(loc="left") == "Images by finding (5 more findings)"
    assert ticks(axes) == ["A name that is so long that…", *(f"Finding {k}" for k in range(33, 4, -1))]


def test_age_by_sex(tmp_path):
    ages = [20.0] * 10 + [41.0] * 20 + [np.nan] * 10
    store = write(tmp_path / "a.h5", age=ages, sex=["F"] * 15 + ["M"] * 20 + [""] * 5)
    axes = panel(store_figure(store, None), "Age")
    assert axes.get_title(loc="left") == "Age in years (10 unknown)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["female", "male"]
    drawn = [(bar.get_x() // 5 * 5, bar.get_height()) for bar in axes.patches if bar.get_height()]
    assert drawn == [(20, 10), (40, 5), (40, 15)]


def test_age_without_sex_has_no_legend(tmp_path):
    figure = store_figure(write(tmp_path / "a.h5", age=[50.0] * COUNT), None)
    assert titles(figure) == ["Age in years"]
    assert panel(figure, "Age").get_legend() is None


def test_bars_of_values(tmp_path):
    store = write(
        tmp_path / "a.h5",
        sex=["M"] * 25 + ["F"] * 10 + [""] * 5,
        view=[*"abcdefgh", *(["PA"] * 20), *([""] * 12)],
        split=["test"] * 10 + ["train"] * 25 + [""] * 5,
        source=["one"] * 12 + ["two"] * 28,
    )
    figure = store_figure(store, None)
    assert ticks(panel(figure, "Sex")) == ["female", "male", "unknown"]
    assert widths(panel(figure, "Sex")) == [10, 25, 5]
    assert [text.get_text() for text in panel(figure, "Sex").texts] == ["10  (25 %)", "25  (62 %)", "5  (12 %)"]
    assert ticks(panel(figure, "Split")) == ["train", "test", "none"]
    assert ticks(panel(figure, "Source")) == ["two", "one"]
    names, counts = ticks(panel(figure, "View")), widths(panel(figure, "View"))
    assert names[:2] == ["PA", "unknown"]
    assert names[-1] == "5 others"
    assert counts == [20, 12, 1, 1, 1, 5]


def test_one_source_is_no_panel(tmp_path):
    assert titles(store_figure(write(tmp_path / "a.h5", source=["one"] * COUNT), None)) == []


def test_suspects_have_a_row_of_their_own(tmp_path):
    found = Findings(
        COUNT, copies=(CopyGroup((3, 17, 20), False, ("test", "train")),), blank=(4, 5, 6), inverted=(7, 8, 9)
    )
    store = write(tmp_path / "a.h5", split=["train", "test"] * 20, view=["PA"] * COUNT)
    figure = store_figure(store, found)
    assert "To check" in texts(figure)
    assert captions(figure)[16:] == ["copies, two splits\nrow 3", "copies, two splits\nrow 17", "blank\nrow 4",
                                     "inverted?\nrow 7"]  # fmt: skip
    assert captions(figure)[:16] == ["train · PA"] * 8 + ["test · PA"] * 8
    shown = pictures(figure)[16].get_images()[0].get_array()
    np.testing.assert_array_equal(shown, store.images[3])
    words = " ".join(text.replace("\n", " ") for text in texts(figure))
    for warning in found.warnings():
        assert warning in words


@pytest.mark.parametrize(
    ("blank", "inverted", "expected"),
    [((1,), (2, 3, 4, 5), [1, 2, 3, 4]), ((1, 2, 3, 4, 5), (6,), [1, 2, 3, 6]), ((1, 2, 3), (), [1, 2, 3])],
)
def test_suspects_of_one_kind_take_the_room_of_the_other(tmp_path, blank, inverted, expected):
    figure = store_figure(write(tmp_path / "a.h5"), Findings(COUNT, blank=blank, inverted=inverted))
    assert [caption.split()[-1] for caption in captions(figure)[16:]] == [str(row) for row in expected]


def test_a_fault_of_the_table_alone_is_said_without_pictures(tmp_path):
    found = Findings(COUNT, split_patients=1, split_rows=(2, 3))
    figure = store_figure(write(tmp_path / "a.h5"), found)
    assert any(found.warnings()[0] in text for text in texts(figure))
    assert len(pictures(figure)) == 16


def test_no_id_and_no_file_name_is_drawn(tmp_path):
    found = Findings(COUNT, copies=(CopyGroup((0, 1), False),), blank=(2,), split_patients=1, split_rows=(2, 3))
    store = write(tmp_path / "SECRET.h5", sex=["F"] * COUNT, split=["train"] * COUNT, age=[50.0] * COUNT)
    drawn = texts(store_figure(store, found))
    assert len(drawn) > 20
    assert not [text for text in drawn if "SECRET" in text]


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_values_are_shown_over_their_whole_range(tmp_path, dtype, white):
    figure = store_figure(write(tmp_path / "a.h5", dtype=dtype, count=3), None)
    assert len(pictures(figure)) == 3
    assert {axes.get_images()[0].get_clim() for axes in pictures(figure)} == {(0, white)}


def test_large_images_are_shown_smaller(tmp_path):
    figure = store_figure(write(tmp_path / "a.h5", size=300, count=2), None)
    assert pictures(figure)[0].get_images()[0].get_array().shape == (256, 256)


def test_rows_are_drawn_evenly_over_the_splits():
    splits = np.array(["train"] * 100 + ["val"] * 3 + ["test"] * 50 + [""] * 40, object)
    rows = draw_rows(splits, seed=0)
    assert [int((splits[rows] == name).sum()) for name in ("train", "val", "test", "")] == [7, 3, 7, 7]
    assert len(set(rows)) == 24
    assert list(splits[rows]) == ["train"] * 7 + ["val"] * 3 + ["test"] * 7 + [""] * 7
    assert rows == draw_rows(splits, seed=0)
    assert rows != draw_rows(splits, seed=1)
    assert draw_rows(splits[100:103], seed=0) == [0, 1, 2]
