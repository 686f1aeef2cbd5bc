"""MONAI Label's own server, live, in its own environment: on a folder of files and on a DICOMweb archive."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chromium
import cv2
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import requests
from label_models import CLASSES, MASKS, REPOSITORY, classifier_weights, segmenter_weights
from monai.bundle import create_workflow

from cxrmonai.cli import main
from cxrmonai.data.geometry import map_to_original
from cxrmonai.data.store import Store
from cxrmonai.explain import Heatmaps
from cxrmonai.networks import load_segmenter

pytestmark = pytest.mark.slow
PAGE = REPOSITORY / "docs/serving.md"
UNREACHED = ("error sending request", "dns error", "Failed to fetch", "timed out", "Connection refused")
STARTS, ANSWERS = 600, 300  # seconds that a server may take on a busy machine
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def page_command(word):
    """The one command of the page that holds a word, as its words."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    (command,) = [line for line in lines if word in line]
    return shlex.split(command, comments=True)


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


class Service:
    """A server in a process of its own, ended by `stop`; its output goes to a file."""

    def __init__(self, command, cwd, address, log):
        self.address, self.log = address, log
        fresh = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=cwd, stdout=output, stderr=subprocess.STDOUT,
                env={**fresh, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def wait(self, path):
        until = time.monotonic() + STARTS
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if requests.get(self.address + path, timeout=ANSWERS).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.5)
        raise AssertionError(f"{self.address} does not answer\n{self.log.read_text()[-3000:]}")

    def stop(self):
        """Ends it as Ctrl-C does, and returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()

    def infer(self, model, image=None, output="all", file=None, **params):
        query = {"output": output} | ({"image": image} if image else {})
        files = {"params": (None, json.dumps(params))} | ({"file": file} if file else {})
        return requests.post(f"{self.address}/infer/{model}", params=query, files=files, timeout=ANSWERS)


@pytest.fixture(scope="module")
def folder():
    """A short path, since uv's environments and sockets live below it."""
    with tempfile.TemporaryDirectory(prefix="cxrmonai_label_") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def app(folder):
    """The app, by the page's command, of weights that need no training."""
    weights = ",".join(str(make(folder)) for make in (classifier_weights, segmenter_weights, classifier_weights))
    (folder / "bundles").symlink_to(REPOSITORY / "bundles")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as left:
            main([*page_command("-m cxrmonai label-app")[3:], "--ckpt_paths", weights])
    assert left.value.code == 0
    return folder / "label-app"


@pytest.fixture(scope="module")
def python(folder, app):
    """Python of an environment made by the page's two commands."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("no uv to make a virtual environment with")
    (folder / "cxrmonai").symlink_to(REPOSITORY / "cxrmonai")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / name)
    fresh = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for word in ("uv venv", "uv pip install"):
        command = [uv, *page_command(word)[1:]]
        command = [sys.executable if part == ".venv/bin/python" else part for part in command]
        made = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**fresh, "UV_SYSTEM_CERTS": "true"}
        )
        if made.returncode and any(sign in made.stderr for sign in UNREACHED):
            pytest.skip(f"no package registry: {made.stderr.splitlines()[0]}")
        assert made.returncode == 0, made.stderr
    (folder / "cxrmonai").unlink()  # what is served is the installed package
    return folder / "label-env/bin/python"


@pytest.fixture(scope="module")
def dicom_file(shared_data):
    return shared_data / "dicom/rsna_sample.dcm"


@pytest.fixture(scope="module")
def studies(folder, shared_data, dicom_file):
    """Real radiographs as PNG, DICOM and NIfTI; names without their suffix are the ids."""
    made = folder / "studies"
    made.mkdir()
    for k, path in enumerate(sorted((shared_data / "nih_sample/images_256").glob("*.png"))[:4]):
        shutil.copy(path, made / f"png{k}.png")
    shutil.copy(dicom_file, made / "dicom.dcm")
    grey = cv2.imread(str(made / "png0.png"), cv2.IMREAD_GRAYSCALE)[:200]
    affine = np.array([[0, -0.5, 0, 7], [0.6, 0, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(grey.T[:, :, None], affine), made / "nifti.nii.gz")
    return made


@pytest.fixture(scope="module")
def orthanc(folder, dicom_file):
    """An archive with one radiograph."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.is_file():
        pytest.skip("no Orthanc with its DICOMweb plugin")
    port = free_port()
    config = {
        "StorageDirectory": str(folder / "archive"), "IndexDirectory": str(folder / "archive"), "HttpPort": port,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(config))
    service = Service([program, folder / "orthanc.json"], folder, f"http://127.0.0.1:{port}", folder / "orthanc.log")
    try:
        service.wait("/system")
        requests.post(f"{service.address}/instances", data=dicom_file.read_bytes(), timeout=60).raise_for_status()
        yield service
    finally:
        service.stop()


def start(python, folder, studies, name):
    """The page's command on other studies and another port."""
    port = free_port()
    words = [str(studies) if word == "STUDIES" else word for word in page_command("-m cxrmonai serve")[1:]]
    return Service([python, *words, "--port", port], folder, f"http://127.0.0.1:{port}", folder / f"{name}.log")


@pytest.fixture(scope="module")
def servers(python, folder, app, studies, request):
    """Both at once, since most of a start is importing PyTorch and MONAI."""
    made = {"files": start(python, folder, studies, "files")}
    archive = request.getfixturevalue("orthanc") if shutil.which("Orthanc") and PLUGIN.is_file() else None
    try:
        if archive is not None:
            made["archive"] = start(python, folder, f"{archive.address}/dicom-web", "archive")
        for server in made.values():
            server.wait("/info/")
        yield made
    finally:
        codes = {name: server.stop() for name, server in made.items()}
    assert set(codes.values()) <= {0, 130, -signal.SIGINT}, codes


@pytest.fixture(scope="module")
def server(servers):
    return servers["files"]


@pytest.fixture(scope="module")
def archive(servers):
    if "archive" not in servers:
        pytest.skip("no Orthanc with its DICOMweb plugin")
    return servers["archive"]


@pytest.fixture(scope="module")
def ours(folder, app, studies):
    """What the bundles' own inference.json write for the same files: scores, masks, heatmaps."""
    out = {}
    for name in ("supervised", "deeplabv3plus", "cam_localization"):
        bundle = app / "model" / name
        work = create_workflow(
            config_file=str(bundle / "configs/inference.json"), workflow_type="infer", bundle_root=str(bundle),
            dataset_dir=str(studies), output_dir=str(folder / "ours" / name), device="cpu",
            **({"heatmap_dtype": "float16", "overlays": 0} if name == "cam_localization" else {}),
        )  # fmt: skip
        work.initialize()
        work.run()
        out[name] = folder / "ours" / name
    return out


def our_mask(ours, name, image):
    return cv2.imread(str(ours["deeplabv3plus"] / f"masks/{name}/{image}.png"), cv2.IMREAD_UNCHANGED) > 0


def decoded(response, extension, folder):
    """The array of an answer with an image, rows first, and where it was kept."""
    assert response.status_code == 200, response.text
    path = folder / f"answer{extension}"
    path.write_bytes(response.content)
    if extension == ".png":
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED), path
    (array,) = np.asarray(nibabel.load(path).dataobj).T
    return array, path


def scores(response):
    assert response.status_code == 200, response.text
    prediction = response.json()["prediction"]
    assert [entry["idx"] for entry in prediction] == list(range(len(prediction)))
    return {entry["label"]: entry["score"] for entry in prediction}


def test_the_server_tells_what_it_has(server):
    info = requests.get(f"{server.address}/info/", timeout=ANSWERS).json()
    kinds = {name: model["type"] for name, model in info["models"].items()}
    assert kinds == {
        "supervised": "classification", "deeplabv3plus": "segmentation", "cam_localization": "segmentation",
    }  # fmt: skip
    assert info["models"]["deeplabv3plus"]["labels"] == {"lungs": 1, "Effusion": 2}
    assert list(info["trainers"]) == ["deeplabv3plus"]
    assert info["datastore"]["total"] == 6


@pytest.mark.parametrize("image", ["png0", "png3", "dicom", "nifti"])
def test_scores_and_masks_are_those_of_our_own_inference(server, ours, studies, image, tmp_path):
    table = pd.read_csv(ours["supervised"] / "predictions.csv").set_index("image_id")
    for label, score in scores(server.infer("supervised", image)).items():
        assert score == pytest.approx(table.loc[image, label], abs=1e-4)
    extension = ".png" if image.startswith("png") else ".nii.gz"
    masks = {name: our_mask(ours, name, image) for name in MASKS}
    for value, name in enumerate(MASKS, 1):
        answer = server.infer("deeplabv3plus", image, "image", finding=name)
        array, path = decoded(answer, extension, tmp_path)
        np.testing.assert_array_equal(array, masks[name] * value)
    whole, path = decoded(server.infer("deeplabv3plus", image, "image"), extension, tmp_path)
    np.testing.assert_array_equal(whole > 0, masks["lungs"] | masks["Effusion"])
    assert all(masks[name][whole == value].all() for value, name in enumerate(MASKS, 1))
    if image == "nifti":
        given = nibabel.load(studies / "nifti.nii.gz")
        np.testing.assert_allclose(nibabel.load(path).affine, given.affine, atol=1e-5)
        assert nibabel.load(path).shape == given.shape
    if image == "dicom":
        spacing = [float(value) for value in pydicom.dcmread(studies / "dicom.dcm").PixelSpacing]
        np.testing.assert_allclose(nibabel.load(path).header.get_zooms()[:2], spacing[::-1], atol=1e-5)


@pytest.mark.parametrize("image", ["png0", "nifti"])
def test_heatmaps_are_those_of_our_own_inference(server, ours, image, tmp_path):
    found = Heatmaps(ours["cam_localization"] / "heatmaps.h5")
    place = list(found.image_ids).index(image)
    geometry = Store(ours["cam_localization"] / "images.h5").geometry[found.rows[place]]
    maps = found.maps([place])[0]
    seen = int(maps.max(axis=(1, 2)).argmax())
    asked = {"finding": CLASSES[seen], "result_extension": ".nii.gz"}
    heat, _ = decoded(server.infer("cam_localization", image, "image", result="map", **asked), ".nii.gz", tmp_path)
    np.testing.assert_allclose(heat, map_to_original(maps[seen], geometry), atol=2e-3)
    assert heat.max() > 0.8
    banded, _ = decoded(server.infer("cam_localization", image, "image", **asked), ".nii.gz", tmp_path)
    np.testing.assert_array_equal(banded, np.digitize(heat, [0.25, 0.5, 0.75]))
    told = server.infer("cam_localization", image, "json", **asked).json()
    boxes = pd.read_csv(ours["cam_localization"] / "boxes.csv")
    boxes = boxes[(boxes["image_id"] == image) & (boxes["finding"] == CLASSES[seen])]
    assert len(told["boxes"]) == len(boxes) > 0
    np.testing.assert_allclose([box["w"] for box in told["boxes"]], boxes["w"], atol=0.01)


def test_a_file_that_is_sent_is_answered(server, ours, studies):
    with (studies / "dicom.dcm").open("rb") as file:
        sent = scores(server.infer("supervised", file=("chest.dcm", file)))
    assert sent == scores(server.infer("supervised", "dicom"))


def test_bad_requests_get_one_line_and_the_server_goes_on(server, studies):
    truncated = (studies / "dicom.dcm").read_bytes()[:3000]

    def refused(status, *arguments, **options):
        answer = server.infer(*arguments, **options)
        assert answer.status_code == status, answer.text
        (line,) = answer.json()["detail"].splitlines()
        return line

    text = ("notes.png", io.BytesIO(b"these are notes"))
    assert refused(422, "supervised", file=text) == "notes.png: not a PNG or JPEG image, whatever its name says"
    assert "chest.dcm: " in refused(422, "supervised", file=("chest.dcm", io.BytesIO(truncated)))
    assert "no model 'other'; there are supervised" in refused(404, "other", "png0")
    assert refused(404, "supervised", "nothing") == "no image 'nothing' in the datastore"
    assert refused(404, "supervised", str(studies / "png0.png")).endswith("in the datastore")
    assert "no image: send a file" in refused(400, "supervised")
    assert "params may not name 'session'" in refused(400, "supervised", "png0", session="x")
    assert "no class 'Hernia'; there are lungs, Effusion" in refused(422, "deeplabv3plus", "png0", finding="Hernia")
    assert "result_extension '.exe'" in refused(422, "deeplabv3plus", "png0", result_extension=".exe")
    assert "output: Input should be" in refused(422, "supervised", "png0", "other")
    broken = requests.post(f"{server.address}/infer/supervised?image=png0", files={"params": (None, "{")}, timeout=60)
    assert (broken.status_code, broken.json()["detail"]) == (400, "params must be a JSON object")
    for path in ("train/supervised", "batch/infer/other", "infer/supervised?session_id=none"):
        assert requests.post(f"{server.address}/{path}", json={}, timeout=60).status_code == 404
    assert scores(server.infer("supervised", "png0"))


def test_pages_of_other_places_may_not_read_it(server):
    for origin, allowed in (("http://localhost:3000", True), ("https://example.org", False)):
        answer = requests.get(f"{server.address}/info/", headers={"Origin": origin}, timeout=ANSWERS)
        assert ("access-control-allow-origin" in answer.headers) is allowed


def test_fifty_requests_at_once_lose_none(server):
    wanted = [("supervised", f"png{k % 4}", "json") for k in range(30)]
    wanted += [("deeplabv3plus", "png1", "image"), ("cam_localization", "png2", "image")] * 10
    alone = {request: _told(server.infer(*request)) for request in set(wanted)}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda request: server.infer(*request), wanted))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert [_told(answer) for answer in answers] == [alone[request] for request in wanted]


def _told(answer):
    """What does not differ from time to time."""
    return answer.json()["prediction"] if "json" in answer.headers["content-type"] else answer.content


def test_labels_that_are_submitted_train_the_segmenter(server, ours, app, tmp_path):
    for image in ("png0", "png1", "png2"):
        drawn = our_mask(ours, "lungs", image).astype(np.uint8) * 2  # the viewer's own numbering
        cv2.imwrite(str(tmp_path / "label.png"), drawn)
        info = {"label_info": [{"name": "lungs", "idx": 2}]}
        with (tmp_path / "label.png").open("rb") as file:
            kept = requests.put(
                f"{server.address}/datastore/label", params={"image": image, "tag": "final"}, timeout=60,
                files={"label": ("label.png", file), "params": (None, json.dumps(info))},
            )  # fmt: skip
        assert kept.status_code == 200, kept.text
    weights = app / "model/deeplabv3plus/models/model.pt"
    before, first = load_segmenter(weights).state_dict(), server.infer("deeplabv3plus", "png0", "image").content
    settings = {"max_epochs": 1, "batch_size": 2, "learning_rate": 0.01}
    begun = requests.post(f"{server.address}/train/deeplabv3plus", json=settings, timeout=ANSWERS)
    assert begun.status_code == 200, begun.text
    status = {"status": "RUNNING"}
    until = time.monotonic() + STARTS
    while status["status"] not in ("DONE", "ERROR", "STOPPED") and time.monotonic() < until:
        time.sleep(1)
        status = requests.get(f"{server.address}/train/", timeout=ANSWERS).json()
    assert status["status"] == "DONE", status
    after = load_segmenter(weights).state_dict()
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    thresholds = json.loads((weights.parent / "thresholds.json").read_text())
    assert "validation" in thresholds["origin"]
    assert server.infer("deeplabv3plus", "png0", "image").content != first  # answered with the new weights


def test_an_archive_is_answered_as_its_files_are(archive, server, ours, dicom_file, tmp_path):
    series = str(pydicom.dcmread(dicom_file, stop_before_pixels=True).SeriesInstanceUID)
    assert scores(archive.infer("supervised", series)) == scores(server.infer("supervised", "dicom"))
    answer = archive.infer("deeplabv3plus", series, "image", finding="Effusion", result_extension=".nii.gz")
    same = server.infer("deeplabv3plus", "dicom", "image", finding="Effusion", result_extension=".nii.gz")
    array, path = decoded(answer, ".nii.gz", tmp_path)
    affine = nibabel.load(path).affine
    np.testing.assert_array_equal(array, decoded(same, ".nii.gz", tmp_path)[0])
    image = requests.get(f"{archive.address}/datastore/image", params={"image": series}, timeout=60)
    (tmp_path / "series.nii.gz").write_bytes(image.content)
    np.testing.assert_allclose(affine, nibabel.load(tmp_path / "series.nii.gz").affine, atol=1e-5)
    info = requests.get(f"{archive.address}/info/", timeout=60).json()
    assert info["datastore"]["total"] == 1
    assert archive.infer("supervised", "1.2.3.4").status_code == 404
    assert archive.infer("supervised", "../files").status_code == 404


def test_a_browser_shows_the_archive(archive, dicom_file, tmp_path):
    if chromium.find() is None:
        pytest.skip("no Chromium")
    with chromium.Chromium(tmp_path / "profile") as browser:
        browser.open(f"{archive.address}/ohif/")
        name = str(pydicom.dcmread(dicom_file, stop_before_pixels=True).PatientName)
        assert browser.wait_for(f"document.body.innerText.includes({name!r})")
        text = browser.ask("document.body.innerText")
        assert "Study List" in text
        assert "CR" in text.split()
        study = str(pydicom.dcmread(dicom_file, stop_before_pixels=True).StudyInstanceUID)
        browser.open(f"{archive.address}/ohif/viewer?StudyInstanceUIDs={study}")
        assert browser.wait_for(
            "document.querySelectorAll('.cornerstone-canvas').length && /W:\\s*\\d/.test(document.body.innerText)"
        )
        until, shown = time.monotonic() + ANSWERS, 0.0
        while shown < 20 and time.monotonic() < until:  # grey levels of the radiograph in the middle of the page
            time.sleep(0.5)
            picture = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
            shown = picture[300:600, 450:800].std()
        assert shown > 20
