"""DICOM SEG and Secondary Capture: read back by pydicom and highdicom, checked against the source."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxrmonai.cli import main
from cxrmonai.data.mask_file import MaskFileWriter
from cxrmonai.errors import CxrError
from cxrmonai.explain.dicom_output import DicomOutput, overlay
from cxrmonai.explain.heatmaps import HeatmapWriter

highdicom = pytest.importorskip("highdicom")
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")


def radiograph(path, shape=(60, 40), bits=12, **elements):
    """A DX file with a patient."""
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid(), generate_uid()
    ds.Modality, ds.PatientName, ds.PatientID, ds.PatientSex = "DX", "Doe^Jane", "secret-17", "F"
    ds.StudyDate, ds.StudyTime, ds.PatientBirthDate = "20260102", "101112", "19500101"
    ds.PixelSpacing = [0.2, 0.2]
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ramp = np.linspace(0, 2**bits - 1, shape[0] * shape[1]).reshape(shape).astype(np.uint16)
    ds.PixelData = ramp.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def regions(shape, seed=0):
    """Two masks that overlap, and an empty one."""
    random = np.random.default_rng(seed)
    one = cv2.GaussianBlur(random.normal(size=shape), (0, 0), 4) > 0.02
    other = np.zeros(shape, bool)
    other[shape[0] // 3 : shape[0] // 2, 5 : shape[1] // 2] = True
    return {"Pleural Effusion": one, "Lung Opacity": other, "Mass": np.zeros(shape, bool)}


def check_segmentation(path, source, masks):
    made = highdicom.seg.segread(path)
    assert all(made.get(name) == source.get(name, "") for name in PATIENT)
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == [name for name in masks if masks[name].any()]
    (reference,) = made.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == source.SeriesInstanceUID
    assert reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    read = made.get_pixels_by_source_instance([source.SOPInstanceUID])[0]
    raw = pydicom.dcmread(path).pixel_array.reshape(-1, *read.shape[:2])  # without highdicom
    for place, name in enumerate(name for name in masks if masks[name].any()):
        assert np.array_equal(read[:, :, place], masks[name]), name
        assert np.array_equal(raw[place], masks[name]), name
    return made


def check_capture(path, source):
    made = pydicom.dcmread(path)
    assert all(made.get(name) == source.get(name, "") for name in PATIENT)
    assert made.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    (reference,) = made.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID
    return made


def test_segmentation_holds_the_masks_pixel_by_pixel(tmp_path):
    source = radiograph(tmp_path / "a.dcm")
    masks = regions((60, 40))
    output = DicomOutput(source)
    assert output.segmentation(masks, tmp_path / "seg.dcm") == ["Pleural Effusion", "Lung Opacity"]
    made = check_segmentation(tmp_path / "seg.dcm", pydicom.dcmread(source), masks)
    types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in made.SegmentSequence]
    assert [(each.CodingSchemeDesignator, each.CodeValue) for each in types] == [
        ("SCT", "60046008"),
        ("99CXRMONAI", "LUNG_OPACITY"),
    ]
    assert output.segmentation({"Mass": masks["Mass"]}, tmp_path / "none.dcm") == []
    assert not (tmp_path / "none.dcm").exists()


def test_capture_is_the_radiograph_with_what_was_burnt_in(tmp_path):
    source = radiograph(tmp_path / "a.dcm", shape=(600, 400))
    heat = np.zeros((600, 400))
    heat[300:400, 100:200] = 1
    DicomOutput(source).capture(tmp_path / "sc.dcm", heat, heat > 0.5, "Mass 0.83")
    made = check_capture(tmp_path / "sc.dcm", pydicom.dcmread(source))
    picture, grey = made.pixel_array, np.round(pydicom.dcmread(source).pixel_array / 4095 * 255)
    assert np.abs(picture[500:, :, 0] - grey[500:]).max() <= 1  # where nothing is drawn
    assert np.ptp(picture[500:].astype(int), axis=2).max() == 0
    assert np.ptp(picture[350, 150].astype(int)) > 50  # in the map
    assert tuple(picture[300, 150]) == (0, 255, 255)  # the outline
    assert (picture[:80] != picture[:80, :, :1]).any() or np.abs(picture[:80, :, 0] - grey[:80]).max() > 50  # text


def test_overlay_leaves_the_image_where_the_map_is_zero():
    grey = np.full((300, 300), 77, np.uint8)
    assert (overlay(grey, np.zeros((300, 300)))[150:] == 77).all()


def test_real_file(shared_data, tmp_path):
    source = shared_data / "dicom/rsna_sample.dcm"
    output = DicomOutput(source)
    masks = regions(output.shape)
    output.segmentation(masks, tmp_path / "seg.dcm")
    output.capture(tmp_path / "sc.dcm", masks["Lung Opacity"].astype(float), masks["Lung Opacity"], "Lung Opacity 0.5")
    header = pydicom.dcmread(source)
    check_segmentation(tmp_path / "seg.dcm", header, masks)
    check_capture(tmp_path / "sc.dcm", header)
    if shutil.which("dciodvfy"):
        for name in ("seg.dcm", "sc.dcm"):
            told = subprocess.run(["dciodvfy", tmp_path / name], capture_output=True, text=True).stderr
            errors = [line for line in told.splitlines() if line.startswith("Error")]
            # the source's own age is no valid DICOM, and says so in every object of its patient
            assert [line for line in errors if "Age" not in line and "Value Representations" not in line] == []


def test_one_series_a_study_and_kind(tmp_path):
    study = generate_uid()
    files = [radiograph(tmp_path / f"{k}.dcm", StudyInstanceUID=study if k < 2 else generate_uid()) for k in range(3)]
    series = {}
    for k, file in enumerate(files):
        output = DicomOutput(file, series)
        output.segmentation(regions((60, 40)), tmp_path / f"seg{k}.dcm", k + 1)
        output.capture(tmp_path / f"sc{k}.dcm", caption="x", number=k + 1)
    uids = [
        [str(pydicom.dcmread(tmp_path / f"{kind}{k}.dcm").SeriesInstanceUID) for k in range(3)]
        for kind in ("seg", "sc")
    ]
    for first, second, third in uids:
        assert first == second != third
    assert len({uid for each in uids for uid in each}) == 4


def test_faults_and_silence(tmp_path, capsys, recwarn):
    source = radiograph(tmp_path / "a.dcm", PatientName="Single", AccessionNumber="7")
    output = DicomOutput(source)
    output.segmentation(regions((60, 40)), tmp_path / "seg.dcm")
    told = capsys.readouterr()
    assert told.out == told.err == ""
    assert not any("Single" in str(warning.message) for warning in recwarn)
    with pytest.raises(CxrError, match="40×50, the radiograph 40×60"):
        output.segmentation(regions((50, 40)), tmp_path / "no.dcm")
    with pytest.raises(CxrError, match="no StudyInstanceUID"):
        DicomOutput(radiograph(tmp_path / "b.dcm", StudyInstanceUID=None))
    (tmp_path / "c.dcm").write_text("a text")
    with pytest.raises(CxrError, match="not a readable DICOM file"):
        DicomOutput(tmp_path / "c.dcm")
    assert not (tmp_path / "no.dcm").exists()


def test_without_highdicom_one_sentence(tmp_path, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    (tmp_path / "masks.json").write_text("{}")
    line = refused("dicom-out", "--root", tmp_path, "--out", tmp_path, "--masks", tmp_path / "masks.json", "--seg")
    assert line == "error: DICOM output needs highdicom: pip install 'cxrmonai[dicom]'"


@pytest.fixture
def hospital(tmp_path):
    """Two radiographs with masks, maps and a crosswalk, and a mask of one that is not there."""
    root = tmp_path / "in"
    root.mkdir()
    names = ["one", "two"]
    for name in names:
        radiograph(root / f"{name}.dcm")
    with MaskFileWriter(tmp_path / "masks.json") as writer:
        for seed, name in enumerate([*names, "lost"]):
            writer.add(name, regions((60, 40), seed))
    maps = np.zeros((2, 3, 32, 32), np.float32)
    maps[:, 1, 16:, :16] = 1  # the lower left of the square; the image takes columns 5 to 26
    with HeatmapWriter(tmp_path / "maps.h5", ["Pleural Effusion", "Lung Opacity", "Mass"], 32, "cam", "x.h5") as writer:
        writer.add([-1, -1], names, maps, np.full((2, 3), 0.5))
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["dicom-out", *map(str, arguments)])
    return left.value.code, capsys.readouterr()


def test_command_writes_both_kinds_and_names_what_it_skips(hospital, capsys):
    places = ("--root", hospital / "in", "--out", hospital / "out", "--masks", hospital / "masks.json")
    code, told = run(capsys, *places, "--heatmaps", hospital / "maps.h5", "--seg", "--sc")
    assert code == 3
    assert "2 segmentations, 4 secondary captures, 1 skipped" in told.out
    assert "skipped lost: no file of this id" in told.err
    assert "Doe" not in told.out + told.err
    made = sorted(path.name for path in (hospital / "out").iterdir())
    assert made == sorted(
        f"{name}{end}"
        for name in ("one", "two")
        for end in (".seg.dcm", "_Pleural_Effusion.sc.dcm", "_Lung_Opacity.sc.dcm")
    )
    for seed, name in enumerate(("one", "two")):
        source = pydicom.dcmread(hospital / f"in/{name}.dcm")
        check_segmentation(hospital / f"out/{name}.seg.dcm", source, regions((60, 40), seed))
        picture = check_capture(hospital / f"out/{name}_Lung_Opacity.sc.dcm", source).pixel_array.astype(int)
        colourful = np.ptp(picture, axis=2) > 40
        assert colourful[45:, :15].mean() > 0.9  # where the map is, in the radiograph's own pixels
        assert colourful[45:, 24:].mean() < 0.1


def test_command_follows_a_crosswalk_and_choice(hospital, capsys):
    content = json.loads((hospital / "masks.json").read_text())
    (hospital / "hashed.json").write_text(json.dumps({"abc": content["one"]}))
    pd.DataFrame({"image": ["one.dcm"], "image_id": ["abc"]}).to_csv(hospital / "who.csv", index=False)
    places = ("--root", hospital / "in", "--out", hospital / "out", "--masks", hospital / "hashed.json", "--seg")
    code, told = run(capsys, *places)
    assert code == 1
    assert "give --crosswalk" in told.err
    code, _ = run(capsys, *places, "--crosswalk", hospital / "who.csv", "--findings", "Lung Opacity")
    assert code == 0
    made = highdicom.seg.segread(hospital / "out/abc.seg.dcm")
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["Lung Opacity"]


def test_command_makes_captures_of_maps_alone(hospital, capsys):
    places = ("--root", hospital / "in", "--out", hospital / "out", "--heatmaps", hospital / "maps.h5")
    code, told = run(capsys, *places, "--sc", "--findings", "Mass")
    assert code == 0
    assert "0 segmentations, 2 secondary captures" in told.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--masks", "m"], "give --seg for segmentations"),
        (["--heatmaps", "m", "--seg"], "--masks is missing"),
        (["--masks", "masks.json", "--seg", "--findings", "Nodule"], "no finding 'Nodule'"),
    ],
)
def test_command_refuses(hospital, refused, monkeypatch, arguments, words):
    monkeypatch.chdir(hospital)
    assert words in refused("dicom-out", "--root", "in", "--out", "out", *arguments)
