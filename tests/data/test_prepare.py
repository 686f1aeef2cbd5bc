"""`prepare`: nothing shifts, nothing is lost, and an interrupted run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmonai.cli import main
from cxrmonai.data import packing
from cxrmonai.data.geometry import boxes_to_store, content_window, letterbox
from cxrmonai.data.masks import encode_rle, rle_of_runs
from cxrmonai.data.prepare import prepare
from cxrmonai.data.reading import to_store_pixels
from cxrmonai.data.sources import load_source
from cxrmonai.data.store import Store
from cxrmonai.errors import CxrError

SIZE = 16
REPOSITORY = Path(__file__).resolve().parents[2]


OPTIONS = {"table": "table.csv", "path_column": "file", "patient_column": "patient", "class_columns": "Mass,Nodule",
           "mask_column": "lung"}  # fmt: skip


def collection_of(root, **options):
    return load_source("csv", root, **{**OPTIONS, **options})


def command(root, out, **options):
    flags = {"size": SIZE, "workers": 0, **OPTIONS, **options}
    return ["prepare", "csv", str(root), str(out), *(f"--{name}={value}" for name, value in flags.items())]


def main_leaves(arguments, code):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == code


def check_rows(store, numbers, draw):
    """Every row's pixels, label, mask and geometry belong to the image that its id names."""
    assert store.column("image_id").tolist() == [f"{k:03d}" for k in numbers]
    masks, known = store.masks(np.arange(len(store)))
    for row, k in enumerate(numbers):
        shape = (24 + k % 5, 20)
        np.testing.assert_array_equal(store.images[row], to_store_pixels(draw(k, shape), SIZE))
        np.testing.assert_array_equal(store.labels[row], np.float32([k % 2, (1, -1, np.nan)[k % 3]]))
        assert store.geometry[row, :2].tolist() == list(shape)
        assert known[row, 0] == (k % 3 == 0)
        drawn = letterbox((draw(1000 + k, shape) > 127).astype(np.uint8) * 255, SIZE) >= 128
        np.testing.assert_array_equal(masks[row, 0], drawn & (k % 3 == 0))


def test_rows_masks_and_labels_belong_together_whatever_the_workers(tmp_path, csv_set, same_stores):
    root = csv_set(13)
    (root / "005.png").write_text("a text")
    for workers in (0, 2):
        made = prepare(collection_of(root), tmp_path / f"{workers}.h5", SIZE, workers, progress=False)
        assert (made.written, made.resumed, made.skipped["image"].tolist()) == (12, 0, ["005.png"])
    same_stores(tmp_path / "0.h5", tmp_path / "2.h5")
    store = Store(tmp_path / "0.h5")
    check_rows(store, [k for k in range(13) if k != 5], csv_set.draw)
    assert store.mask_names == ["lung"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.h5", "2.h5", "set"]


def test_unreadable_files_are_listed_and_do_not_shift_the_rest(tmp_path, csv_set, capsys):
    root = csv_set(12)
    (root / "003.png").write_bytes((root / "003.png").read_bytes()[:150])
    (root / "000.png").write_text("a text")
    (root / "007.png").unlink()
    (root / "masks" / "009.png").write_text("a text")
    Image.fromarray(np.zeros((10, 80), np.uint8)).save(root / "masks" / "006.png")
    main_leaves(command(root, tmp_path / "a.h5"), 3)
    said = capsys.readouterr()
    assert "7 images written, 5 skipped" in said.out
    store = Store(tmp_path / "a.h5")
    check_rows(store, [1, 2, 4, 5, 8, 10, 11], csv_set.draw)
    skipped = dict(store.skipped.itertuples(index=False))
    assert skipped == {
        "000.png": "not a PNG or JPEG image, whatever its name says",
        "003.png": "the PNG file is truncated",
        "006.png": "masks/006.png: the mask is 80×10 and its image 20×25, another aspect",
        "007.png": "no such file",
        "009.png": "masks/009.png: not a PNG or JPEG image, whatever its name says",
    }
    assert said.err.splitlines() == [f"skipped {image}: {reason}" for image, reason in skipped.items()]
    assert not (tmp_path / "a.h5.partial").exists()


def test_the_tables_spacing_goes_before_the_files(tmp_path, csv_set, monkeypatch):
    collection = collection_of(csv_set(4))
    collection.table["spacing_y"] = [0.2, np.nan, 0.0, 0.3]
    collection.table["spacing_x"] = [0.1, np.nan, 0.0, np.nan]
    read = packing.read_image
    monkeypatch.setattr(packing, "read_image", lambda path: replace(read(path), spacing=(0.5, 0.6)))
    prepare(collection, tmp_path / "a.h5", SIZE, 0, progress=False)
    spacing = Store(tmp_path / "a.h5").geometry[:, 6:]
    np.testing.assert_array_equal(spacing, [[0.2, 0.1], [0.5, 0.6], [np.nan, np.nan], [0.5, 0.6]])


def test_masks_of_several_files_and_run_lengths_are_united(tmp_path, csv_set):
    collection = collection_of(csv_set(3), mask_column=None)
    shapes = [(24 + k, 20) for k in range(3)]
    left, right = np.zeros(shapes[0], np.uint8), np.zeros(shapes[0], np.uint8)
    left[:, :10], right[:, 10:] = 255, 255
    for name, mask in (("left", left), ("right", right)):
        Image.fromarray(mask).save(Path(collection.root) / "masks" / f"{name}.png")
    large = np.zeros((50, 40), bool)  # the frame of the masks need not be the file's
    large[:25] = True
    rows = [
        ("000", "Lungs", "masks/left.png", ""),
        ("000", "Lungs", "masks/right.png", ""),
        ("001", "Lungs", "", encode_rle(large)),
        ("001", "Mass", "", rle_of_runs([], *shapes[1])),
    ]
    masks = pd.DataFrame(rows, columns=["image_id", "finding", "path", "rle"])
    prepare(replace(collection, masks=masks), tmp_path / "a.h5", SIZE, 0, progress=False)
    store = Store(tmp_path / "a.h5")
    assert store.mask_names == ["Lungs", "Mass"]
    drawn, known = store.masks([0, 1, 2])
    assert known.tolist() == [[True, False], [True, True], [False, False]]
    window = content_window(store.geometry[0])
    assert drawn[0, 0][window].all()  # no seam where the halves meet
    assert drawn[1, 0][:8, 2:14].all()
    assert not drawn[1, 0][8:].any()
    assert not drawn[:, 1].any()


def test_run_lengths_that_will_not_do_leave_their_image_out(tmp_path, csv_set):
    collection = collection_of(csv_set(3), mask_column=None)
    rows = [("000", "Mass", "", "nonsense"), ("001", "Mass", "", encode_rle(np.ones((10, 80), bool)))]
    masks = pd.DataFrame(rows, columns=["image_id", "finding", "path", "rle"])
    made = prepare(replace(collection, masks=masks), tmp_path / "a.h5", SIZE, 0, progress=False)
    assert made.written == 1
    assert "COCO's JSON" in made.skipped["reason"][0]
    assert "the mask is 80×10 and its image 20×25, another aspect" in made.skipped["reason"][1]


def test_nih_boxes_land_on_what_was_drawn_and_16_bits_are_kept(tmp_path):
    root = tmp_path / "nih"
    (root / "images").mkdir(parents=True)
    boxes = [(256, 128, 512, 256), (64, 640, 192, 320), (0, 0, 1024, 1024)]
    for k, (x, y, w, h) in enumerate(boxes):
        image = np.zeros((128, 128), np.uint8)
        image[y // 8 : (y + h) // 8, x // 8 : (x + w) // 8] = 200
        Image.fromarray(image).save(root / "images" / f"{k}.png")
    head = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender\n"
    (root / "Data_Entry_2017.csv").write_text(head + "".join(f"{k}.png,Mass,{k},50,F\n" for k in range(3)))
    head = "Image Index,Finding Label,Bbox [x,y,w,h]\n"
    lines = [f"{k}.png,Mass,{','.join(map(str, box))}\n" for k, box in enumerate(boxes)]
    (root / "BBox_List_2017.csv").write_text(head + "".join(reversed(lines)))
    prepare(load_source("nih", root), tmp_path / "a.h5", 64, 0, depth=16, progress=False)
    store = Store(tmp_path / "a.h5")
    assert store.dtype == np.uint16
    assert len(store.boxes) == 3
    for image_id, _, *box in store.boxes.itertuples(index=False):
        row = store.column("image_id").tolist().index(image_id)
        x, y, w, h = (round(edge) for edge in boxes_to_store(box, store.geometry[row]))
        expected = np.zeros((64, 64), np.uint16)
        expected[y : y + h, x : x + w] = 200 * 257
        np.testing.assert_array_equal(store.images[row], expected)


def test_folder_on_the_command_line(tmp_path, png_folder):
    root = png_folder(5)
    arguments = [sys.executable, "-m", "cxrmonai", "prepare", "folder", str(root), str(tmp_path / "a.h5")]
    done = subprocess.run([*arguments, "--size=16", "--workers=0"], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{tmp_path / 'a.h5'}: 5 images written, 0 skipped"
    store = Store(tmp_path / "a.h5")
    assert store.class_names == []
    for row, k in enumerate(store.column("image_id")):
        np.testing.assert_array_equal(store.images[row], letterbox(png_folder.draw(int(k)), SIZE))
    again = subprocess.run([*arguments, "--size=16"], capture_output=True, text=True, cwd=REPOSITORY)
    assert again.returncode == 1
    (line,) = again.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'a.h5'}: exists already")


@pytest.fixture
def stuck(tmp_path, csv_set):
    """`start(workers)` runs `prepare` on 40 images of which number 7 is a pipe that nobody writes to.

    It returns when every row is done that can be, with the process, its workers' ids, the root and the command.
    """
    started = []

    def start(workers, can_be_done):
        root = csv_set(40)
        shutil.copy(root / "007.png", tmp_path / "seven.png")
        (root / "007.png").unlink()
        os.mkfifo(root / "007.png")
        arguments = command(root, tmp_path / "a.h5", workers=workers)
        process = subprocess.Popen(
            [sys.executable, "-m", "cxrmonai", *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background of a shell ignores interrupts, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        status = tmp_path / "a.h5.partial" / "status.raw"
        for _ in range(2400):
            if status.exists() and sum(status.read_bytes()) == can_be_done:
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        else:
            pytest.fail("prepare did not come to the pipe")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return process, [int(child) for child in children], root, arguments

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ended(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def goes_on(tmp_path, root, arguments, done, capsys, same_stores, check):
    (root / "007.png").unlink()
    shutil.copy(tmp_path / "seven.png", root / "007.png")
    main_leaves([*arguments, "--workers=0"], 0)
    assert f"40 images written, {done} of them from an interrupted run, 0 skipped" in capsys.readouterr().out
    prepare(collection_of(root), tmp_path / "whole.h5", SIZE, 0, progress=False)
    same_stores(tmp_path / "a.h5", tmp_path / "whole.h5")
    check(Store(tmp_path / "a.h5"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "seven.png", "set", "whole.h5"}


# With two workers the rows go out in chunks of five: 7, 8 and 9 wait for the pipe.
@pytest.mark.parametrize(("workers", "can_be_done"), [(0, 7), (2, 37)])
def test_a_killed_run_goes_on(tmp_path, stuck, workers, can_be_done, capsys, same_stores, csv_set):
    process, children, root, arguments = stuck(workers, can_be_done)
    assert len(children) >= workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.h5").exists()
    for _ in range(400):
        if all(ended(child) for child in children):
            break
        time.sleep(0.05)
    else:
        pytest.fail("workers outlive the run that started them")
    (tmp_path / "a.h5.partial" / ".store.h5.half.tmp").write_bytes(b"half of an earlier store")
    goes_on(
        tmp_path, root, arguments, can_be_done, capsys, same_stores, lambda s: check_rows(s, range(40), csv_set.draw)
    )


def test_ctrl_c_ends_in_one_line_and_goes_on(tmp_path, stuck, capsys, same_stores, csv_set):
    process, _, root, arguments = stuck(2, 37)
    os.killpg(process.pid, signal.SIGINT)  # to its workers as well, as a terminal does
    os.close(os.open(root / "007.png", os.O_WRONLY | os.O_NONBLOCK))  # lets the worker go on: the pipe reads as empty
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines() == ["interrupted; the same command goes on from here"]
    goes_on(tmp_path, root, arguments, 39, capsys, same_stores, lambda s: check_rows(s, range(40), csv_set.draw))


def stop_while_the_store_is_written(root, out, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cxrmonai.data.store._write_frame", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(collection_of(root), out, SIZE, 0, progress=False)


def test_a_run_that_ended_while_the_store_was_written_goes_on(tmp_path, csv_set, monkeypatch):
    root = csv_set(4)
    stop_while_the_store_is_written(root, tmp_path / "a.h5", monkeypatch)
    assert not (tmp_path / "a.h5").exists()
    monkeypatch.setattr("cxrmonai.data.packing._do_row", lambda *_: pytest.fail("did a row again"))
    made = prepare(collection_of(root), tmp_path / "a.h5", SIZE, 0, progress=False)
    assert (made.written, made.resumed) == (4, 4)


@pytest.mark.parametrize("change", ["size", "depth", "table", "label"])
def test_work_for_another_plan_is_not_gone_on_with(tmp_path, csv_set, change, monkeypatch):
    root = csv_set(5)
    stop_while_the_store_is_written(root, tmp_path / "a.h5", monkeypatch)
    size, depth = SIZE + (change == "size"), 16 if change == "depth" else 8
    rows = pd.read_csv(root / "table.csv", dtype=str)
    if change == "table":
        rows = rows[::-1]
    elif change == "label":
        rows.loc[2, "Mass"] = "1"
    rows.to_csv(root / "table.csv", index=False)
    made = prepare(collection_of(root), tmp_path / "a.h5", size, 0, depth, progress=False)
    assert made.resumed == 0
    store = Store(tmp_path / "a.h5")
    assert (store.size, store.dtype.itemsize) == (size, depth // 8)
    first = int(store.column("image_id")[0])
    np.testing.assert_array_equal(store.images[0], to_store_pixels(csv_set.draw(first, (24 + first, 20)), size, depth))


def test_a_file_mended_since_is_tried_again(tmp_path, csv_set, monkeypatch):
    root = csv_set(5)
    good = (root / "002.png").read_bytes()
    (root / "002.png").write_bytes(good[:100])
    stop_while_the_store_is_written(root, tmp_path / "a.h5", monkeypatch)
    (root / "002.png").write_bytes(good)
    made = prepare(collection_of(root), tmp_path / "a.h5", SIZE, 0, progress=False)
    assert (made.written, made.resumed, len(made.skipped)) == (5, 4, 0)
    check_rows(Store(tmp_path / "a.h5"), range(5), csv_set.draw)


def test_a_second_run_at_the_same_time_is_refused(tmp_path, csv_set, refused):
    root = csv_set(3)
    folder = tmp_path / "a.h5.partial"
    folder.mkdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another prepare is at work" in refused(*command(root, tmp_path / "a.h5"))
    main_leaves(command(root, tmp_path / "a.h5"), 0)


def test_an_existing_store_is_replaced_only_when_asked(tmp_path, csv_set, refused):
    root = csv_set(3)
    main_leaves(command(root, tmp_path / "a.h5"), 0)
    assert "exists already" in refused(*command(root, tmp_path / "a.h5", size=32))
    assert Store(tmp_path / "a.h5").size == SIZE
    main_leaves([*command(root, tmp_path / "a.h5", size=32), "--overwrite"], 0)
    assert Store(tmp_path / "a.h5").size == 32


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 0}, "--size 0"),
        ({"size": 8193}, "--size 8193"),
        ({"size": 64.5}, "--size 64.5"),
        ({"size": "large"}, "--size large"),
        ({"depth": 12}, "--depth 12"),
        ({"workers": -1}, "--workers -1"),
        ({"workers": "many"}, "--workers many"),
        ({"seed": "x"}, "--seed x"),
        ({"seed": -1}, "--seed -1"),
        ({"table": "absent.csv"}, "absent.csv: no such file"),
        ({"table": 5}, "5: no such file"),
        ({"class_columns": "Mass,Hernia"}, "table.csv: no column 'Hernia'"),
        ({"class_columns": 5}, "no column '5'"),
        ({"class_columns": "patient"}, "column 'patient' holds 'p0'"),
        ({"colour": "blue"}, "no option --colour"),
        ({"split_column": "file"}, "write train, val or test"),
    ],
)
def test_wrong_options(tmp_path, csv_set, refused, options, word):
    assert word in refused(*command(csv_set(4), tmp_path / "a.h5", **options))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_wrong_places(tmp_path, csv_set, refused):
    root = csv_set(3)
    (tmp_path / "file").write_text("")
    assert "cannot write here" in refused(*command(root, tmp_path / "file" / "a.h5"))
    assert "cannot write here" in refused(*command(root, "/proc/a.h5"))
    assert "is a folder" in refused(*command(root, tmp_path))
    assert "no such folder" in refused(*command(tmp_path / "absent", tmp_path / "a.h5"))
    assert "unknown source 'no-such'" in refused("prepare", "no-such", root, tmp_path / "a.h5")
    assert "needs --table" in refused("prepare", "csv", root, tmp_path / "a.h5")
    assert "no such file" in refused("info", tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("", "not a readable CSV"),
        ("file,patient,Mass,Nodule,lung\n", "no rows"),
        ("file,patient,Mass,Nodule,lung\n000.png,p,1,1,\n,p,0,0,\n", "column 'file' is blank in 1 row(s)"),
        ("file,patient,Mass,Nodule,lung\n000.png,p,1,1,\n000.png,p,0,0,\n", "2 rows share an image id"),
        ("file,patient,Mass,Nodule,lung\n000.png,p,1,maybe,\n", "column 'Nodule' holds 'maybe'"),
        ("file,patient,Mass,Nodule,lung\n000.png,p,1,1,x,y,z\n", "not a readable CSV"),
        ("file,patient,Mass,Nodule,lung\n000.png,p,1,1,\n001.png,p,1,1,,,,,\n", "not a readable CSV"),
    ],
)
def test_wrong_tables(tmp_path, csv_set, refused, table, word):
    root = csv_set(3)
    (root / "table.csv").write_text(table)
    assert word in refused(*command(root, tmp_path / "a.h5"))


def test_a_patient_in_two_published_splits_is_refused_unnamed(tmp_path, csv_set, refused):
    root = csv_set(4)
    rows = pd.read_csv(root / "table.csv", dtype=str)
    rows["patient"], rows["part"] = ["Zoe", "Zoe", "Ann", "Bob"], ["train", "test", "val", "train"]
    rows.to_csv(root / "table.csv", index=False)
    line = refused(*command(root, tmp_path / "a.h5", split_column="part"))
    assert "1 patient(s) have images in more than one split (such as test and train)" in line
    assert "Zoe" not in line


@pytest.mark.parametrize("path", ["../outside.png", "/etc/outside.png"])
def test_a_path_outside_of_the_root_is_not_read(tmp_path, csv_set, path):
    root = csv_set(3)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "outside.png")
    rows = pd.read_csv(root / "table.csv", dtype=str)
    rows.loc[1, "file"] = path
    rows.to_csv(root / "table.csv", index=False)
    made = prepare(collection_of(root), tmp_path / "a.h5", SIZE, 0, progress=False)
    assert made.written == 2
    ((image, reason),) = made.skipped.itertuples(index=False)
    assert image == path
    assert "lies outside of" in reason


def test_nothing_readable_is_an_error_that_names_the_first(tmp_path, csv_set, refused):
    root = csv_set(3)
    for k in range(3):
        (root / f"{k:03d}.png").write_text("a text")
    line = refused(*command(root, tmp_path / "a.h5"))
    assert "none of the 3 images could be read; the first, 000.png: not a PNG or JPEG" in line
    assert not (tmp_path / "a.h5").exists()


def test_too_little_space_is_told_before_work_begins(tmp_path, csv_set, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * SIZE**2 * 2))
    with pytest.raises(CxrError, match="GiB are free"):
        prepare(collection_of(csv_set(3)), tmp_path / "a.h5", SIZE, 0, progress=False)


def test_unknown_flag_is_refused_before_anything_is_done(tmp_path, refused):
    line = refused("phantom", "--out", tmp_path / "a.h5", "--patients", "1", "--sise", "64")
    assert "--sise" in line
    assert "did you mean --size" in line
    assert not (tmp_path / "a.h5").exists()
