"""A folder of DICOM: what is found, what is told of it, how labels are joined."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from cxrmonai.data.prepare import prepare
from cxrmonai.data.reading import dicom_scan
from cxrmonai.data.sources import load_source
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)


def export(root, name, **elements):
    """Writes a radiograph; an element given as None is left out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = f"1.2.3.{zlib.crc32(name.encode())}"
    ds.Modality = "CR"
    ds.PatientName, ds.PatientID = "Doe^Jane", "p1"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *PIXELS.shape, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = PIXELS.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def load(root, **options):
    return load_source("dicom", root, workers=0, **options)


def code(meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "R-1", "SRT", meaning
    return Sequence([item])


def test_what_a_header_tells(tmp_path):
    export(
        tmp_path, "s1/IM1", SOPInstanceUID="1.2.7", StudyInstanceUID="1.9", PatientID="Müller-7", IssuerOfPatientID="H",
        ViewPosition="PA", PatientSex="F", PatientAge="062Y", Laterality="L", BodyPartExamined="CHEST",
        Manufacturer="Maker", StudyDate="20200101", InstitutionName="Clinic",
    )  # fmt: skip
    export(
        tmp_path, "s2/IM1.dcm", SOPInstanceUID="1.2.8", Modality="DX", ViewCodeSequence=code("postero-anterior"),
        PatientBirthDate="19700101", StudyDate="20200101", PatientSex="O", ImageLaterality="R", Laterality="L",
    )  # fmt: skip
    export(
        tmp_path, "s2/IM2.ima", ViewPosition="LL", PatientAge="011M", PatientBirthDate="19000101", StudyDate="20200101"
    )
    export(tmp_path, "s2/IM3", ViewPosition="XTABLE LATERAL", PatientBirthDate="20210101", StudyDate="20200101")
    found = load(tmp_path)
    table = found.table
    assert found.private
    assert table["image"].tolist() == ["s1/IM1", "s2/IM1.dcm", "s2/IM2.ima", "s2/IM3"]
    assert table["image_id"].tolist()[:2] == ["1.2.7", "1.2.8"]
    assert table["patient_id"].tolist() == ["H:Müller-7", "p1", "p1", "p1"]
    assert table["study_id"].tolist() == ["1.9", "", "", ""]
    assert table["view"].tolist() == ["PA", "PA", "LATERAL", "XTABLE LATERAL"]
    assert table["sex"].tolist() == ["F", "", "", ""]
    np.testing.assert_allclose(table["age"], [62, 50, 11 / 12, np.nan], atol=0.01)
    assert table["laterality"].tolist() == ["L", "R", "", ""]
    assert table["modality"].tolist() == ["CR", "DX", "CR", "CR"]
    assert table["body_part"].tolist() == ["CHEST", "", "", ""]
    assert table["manufacturer"].tolist() == ["Maker", "", "", ""]
    assert set(table.columns) == {
        "image", "image_id", "patient_id", "study_id", "view", "age", "sex", "split",
        "laterality", "modality", "body_part", "manufacturer",
    }  # fmt: skip
    assert found.class_names == []


def test_without_a_patient_id_the_images_of_a_study_stay_together(tmp_path):
    for k, study in enumerate(["1.1", "1.1", "1.2"]):
        export(tmp_path, f"IM{k}", PatientID="", StudyInstanceUID=study)
    found = load(tmp_path)
    assert found.table["patient_id"].tolist() == ["study:1.1", "study:1.1", "study:1.2"]
    assert "3 images have no PatientID: each study counts as its own patient" in found.notes


@pytest.mark.parametrize("text", ["062Y", "62", "62Y", "744M", "003W", "000Y", "150Y", "", "old"])
def test_ages(tmp_path, text):
    path = export(tmp_path, "a.dcm", PatientAge="000Y")
    ds = dcmread(path)
    ds["PatientAge"]._value = text
    ds.save_as(path)
    expected = {"062Y": 62, "62": 62, "62Y": 62, "744M": 62, "003W": 21 / 365.25, "000Y": 0}.get(text, np.nan)
    np.testing.assert_allclose(load(tmp_path).table["age"], [expected])


def test_what_is_no_radiograph_is_skipped_with_a_reason(tmp_path):
    export(tmp_path, "good.dcm", SOPInstanceUID="1.2.9")
    export(tmp_path, "capture.dcm", SOPClassUID=SecondaryCaptureImageStorage)
    export(tmp_path, "no_modality.dcm", Modality=None)
    export(tmp_path, "x/again.dcm", SOPInstanceUID="1.2.9")
    export(tmp_path, "x/ct.dcm", Modality="CT")
    export(tmp_path, "x/film.dcm", NumberOfFrames=3, PixelData=PIXELS.tobytes() * 3)
    export(tmp_path, "x/report", Modality="SR", SOPClassUID=BasicTextSRStorage, Rows=None, Columns=None, PixelData=None)
    export(tmp_path, "x/unnamed.dcm", Modality=None, SOPClassUID="1.2.3.4")
    (tmp_path / "x/empty.dcm").write_bytes(b"")
    (tmp_path / "x/text.dcm").write_text("patient\n" * 40)
    found = load(tmp_path)
    assert found.table["image"].tolist() == ["capture.dcm", "good.dcm", "no_modality.dcm"]
    assert found.skipped.set_index("image")["reason"].to_dict() == {
        "x/again.dcm": "the same SOPInstanceUID as an earlier file",
        "x/ct.dcm": "modality CT, no radiograph",
        "x/empty.dcm": "the file is empty",
        "x/film.dcm": "3 frames; a radiograph has one",
        "x/report": "the object is Basic Text SR Storage and no image",
        "x/text.dcm": "not a DICOM file, whatever its name says",
        "x/unnamed.dcm": "no modality, and an object class other than that of radiographs",
    }


def test_what_is_no_dicom_is_counted(tmp_path):
    export(tmp_path, "IM1")
    export(tmp_path, "1.2.840.1")
    for name in (".hidden/IM2", ".IM3", "DICOMDIR", "picture.png"):
        export(tmp_path, name)
    (tmp_path / "notes.txt").write_text("notes")
    found = load(tmp_path)
    assert found.table["image"].tolist() == ["1.2.840.1", "IM1"]
    assert "5 files are not DICOM, or hidden, or a DICOMDIR: ignored" in found.notes
    assert len(found.skipped) == 0


def test_oddities_are_noted(tmp_path):
    export(tmp_path, "a.dcm", BodyPartExamined="HAND", PresentationIntentType="FOR PROCESSING")
    export(tmp_path, "b.dcm", BodyPartExamined="PORT CHEST", PatientID=None)
    notes = " ".join(load(tmp_path).notes)
    assert "1 images are raw (FOR PROCESSING)" in notes
    assert "1 images name another body part than the chest" in notes
    assert "1 images have no patient id" in notes


def test_ids_that_are_absent(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        path = export(tmp_path, name)
        ds = dcmread(path)
        del ds.SOPInstanceUID
        ds.save_as(path)
    assert load(tmp_path).table["image_id"].tolist() == ["file:a.dcm", "file:b.dcm"]


def test_a_name_that_is_no_utf_8_is_skipped(tmp_path):
    export(tmp_path, "a.dcm")
    (tmp_path / b"M\xfcller.dcm".decode("utf-8", "surrogateescape")).write_bytes((tmp_path / "a.dcm").read_bytes())
    skipped = load(tmp_path).skipped
    assert skipped.to_numpy().tolist() == [["M\\udcfcller.dcm", "the name is not in UTF-8; rename the file"]]


def test_no_radiograph_at_all(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(CxrError, match="no DICOM file below this folder"):
        load(tmp_path)
    export(tmp_path, "ct.dcm", Modality="CT")
    with pytest.raises(CxrError, match=r"none of the 1 DICOM files is a radiograph; the first, ct\.dcm: modality CT"):
        load(tmp_path)


@pytest.fixture
def study(tmp_path):
    """Five images: two studies of p1, one of p2, one of p3 with two images."""
    for k, (patient, number) in enumerate([("p1", 1), ("p1", 2), ("p2", 3), ("p3", 4), ("p3", 4)]):
        export(
            tmp_path, f"{patient}/im{k}.dcm", PatientID=patient, StudyInstanceUID=f"1.9.{number}",
            AccessionNumber=f"00{number}", SOPInstanceUID=f"1.2.{k}",
        )  # fmt: skip
    return tmp_path


def labelled(root, text, **options):
    (root / "labels.csv").write_text(text)
    return load(root, labels="labels.csv", **options)


def test_labels_by_study(study):
    found = labelled(study, "StudyInstanceUID,Edema,Mass\n1.9.1,1,0\n1.9.4,-1,\n1.9.3,0,1\n1.9.77,1,1\n")
    assert found.class_names == ["Edema", "Mass"]
    np.testing.assert_array_equal(found.table["Edema"], [1, np.nan, 0, -1, -1])
    np.testing.assert_array_equal(found.table["Mass"], [0, np.nan, 1, np.nan, np.nan])
    assert "1 of 4 rows of labels.csv have no image here: left out" in found.notes
    assert "1 of 5 images have no row in labels.csv: their findings are unknown" in found.notes
    assert not any("1.9" in note for note in found.notes)


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("AccessionNumber", ["001", "002", "003", "004"], [0, 1, 2, 3, 3]),
        ("PatientID", ["p1", "p2", "p3"], [0, 0, 1, 2, 2]),
        ("SOPInstanceUID", [f"1.2.{k}" for k in range(5)], [0, 1, 2, 3, 4]),
        ("file", [f"im{k}" for k in range(5)], [0, 1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("column", ["same", "report_id", "named"])
def test_labels_by_other_keys(study, key, values, expected, column):
    labels = [1, 0, -1, np.nan, 1]
    name = {"same": key, "report_id": "report_id", "named": "who"}[column]
    table = pd.DataFrame({name: values, "Edema": labels[: len(values)]})
    found = labelled(study, table.to_csv(index=False), labels_key=key, labels_column={"named": "who"}.get(column))
    np.testing.assert_array_equal(found.table["Edema"], [labels[k] for k in expected])


def test_what_label_writes_is_joined_with_its_grade(study):
    text = "report_id,Edema,edema_severity,site\n1.9.1,1,3,a\n1.9.2,,,b\n"
    found = labelled(study, text, class_columns="Edema", keep_columns="edema_severity,site")
    assert found.class_names == ["Edema"]
    assert set(found.table["edema_severity"].dropna()) == {3.0}
    assert {"a", "b"} <= set(found.table["site"]) <= {"a", "b", ""}
    alone = labelled(study, "report_id,Edema,edema_severity\n1.9.1,1,3\n1.9.2,,\n")
    assert alone.class_names == ["Edema"]
    assert set(alone.table["edema_severity"].dropna()) == {3.0}
    with pytest.raises(CxrError, match="--keep_columns age: every store has a column of that name"):
        labelled(study, "report_id,Edema,age\n1.9.1,1,3\n", class_columns="Edema", keep_columns="age")


def test_labels_with_a_split_and_chosen_columns(study):
    text = "PatientID,fold,Edema,text\np1,train,1,a\np2,test,0,b\np3,val,,c\n"
    found = labelled(study, text, labels_key="PatientID", class_columns="Edema", split_column="fold")
    assert found.class_names == ["Edema"]
    assert found.table["split"].tolist() == ["train", "train", "test", "val", "val"]
    with pytest.raises(CxrError, match="column 'text' holds 'a'"):
        labelled(study, text, labels_key="PatientID", split_column="fold")


@pytest.mark.parametrize(
    ("text", "options", "word"),
    [
        (
            "StudyInstanceUID,A\n1.9.1,1\n1.9.1,0\n",
            {},
            "1 keys of column 'StudyInstanceUID' stand in more than",
        ),
        ("StudyInstanceUID,A\n1.8.1,1\n", {}, "none of the 1 rows fits an image by StudyInstanceUID"),
        ("uid,A\n1.9.1,1\n", {}, "no column 'StudyInstanceUID'; it has uid, A"),
        ("report_id,A\n1.9.1,1\n", {"class_columns": "B"}, "no column 'B'"),
        ("report_id,A\n1.9.1,1\n", {"split_column": "fold"}, "no column 'fold'"),
        ("report_id,A\n1.9.1,1\n", {"labels_key": "PatientName"}, "--labels_key PatientName: must be one of SOP"),
    ],
)
def test_tables_that_do_not_fit(study, text, options, word):
    with pytest.raises(CxrError, match=word):
        labelled(study, text, **options)


def test_other_wrong_options(study):
    with pytest.raises(CxrError, match=r"labels\.csv: no such file"):
        load(study, labels="labels.csv")
    with pytest.raises(CxrError, match="are of the table named with --labels"):
        load(study, class_columns="A")
    with pytest.raises(CxrError, match="--workers -1: must be 0 or more"):
        load_source("dicom", study, workers=-1)
    export(study, "again/im0.dcm")
    with pytest.raises(CxrError, match="several DICOM files have one name in different folders"):
        labelled(study, "file,A\nim0,1\n", labels_key="file")


def test_any_number_of_processes_gives_the_same(tmp_path, monkeypatch):
    for k in range(12):
        export(tmp_path, f"s{k % 3}/IM{k}", PatientID=f"p{k}", PatientAge=f"{k:03d}Y")
    monkeypatch.setattr(dicom_scan, "CHUNK", 5)
    one, two = (load_source("dicom", tmp_path, workers=workers) for workers in (1, 2))
    assert one.table["image"].tolist() == sorted(one.table["image"])
    pd.testing.assert_frame_equal(one.table, two.table)


def test_real_file_end_to_end(shared_data, tmp_path):
    source = shared_data / "dicom" / "rsna_sample.dcm"
    root = tmp_path / "export"
    root.mkdir()
    (root / "IM0001").write_bytes(source.read_bytes())
    (root / "cut.dcm").write_bytes(source.read_bytes()[:60_000])
    export(root, "film.dcm", NumberOfFrames=3, PixelData=PIXELS.tobytes() * 3)
    (root / "labels.csv").write_text(
        "StudyInstanceUID,Pneumonia\n1.2.276.0.7230010.3.1.2.8323329.6904.1517875201.850818,1\n"
    )
    found = load(root, labels="labels.csv")
    # A cut file repeats the header of the whole one.
    assert found.skipped["image"].tolist() == ["cut.dcm", "film.dcm"]
    done = prepare(found, tmp_path / "a.h5", 64, workers=0, progress=False)
    assert (done.written, len(done.skipped)) == (1, 2)
    store = open_store(tmp_path / "a.h5")
    row = store.table.iloc[0]
    assert (row["view"], row["sex"], row["age"], row["modality"]) == ("PA", "M", 62, "CR")
    assert row["Pneumonia"] == 1
    assert store.geometry[0][:2].tolist() == [1024, 1024]
    assert store.geometry[0][-2:].tolist() == [0.168, 0.168]
    content = (tmp_path / "a.h5").read_bytes()
    for secret in (b"16d7f894", b"1.2.276.0.7230010.3.1.4", b"IM0001", b"film.dcm"):
        assert secret not in content
    assert store.images[0].std() > 20
