"""The task pages: every command in them runs, leaves what the page says, and fails as the page says."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from page_commands import commands, name_of, run_command

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS = REPOSITORY / "docs/tasks"
# In the order in which a reader with nothing goes through them: later pages use what earlier ones leave.
ORDER = ("classify_my_images", "pretrain_on_my_archive", "where_is_the_model_looking", "segment_with_20_masks")
# What the tests put behind every command of a kind: tiny images and single epochs.
SMALLER = {
    "phantom": "--patients 40 --size 64",
    "prepare": "--size 64 --workers 0",
    "cross-validate": "--max_epochs 1 --image_size 64 --batch_size 4 --folds 3",
    "train": "--max_epochs 1 --image_size 64 --batch_size 8",
    "evaluate": "--resamples 100",
    "faithfulness": "--resamples 100 --limit 2 --check_limit 1 --steps 2 --random_maps 1",
}
MONAI_RUN = "python -m monai.bundle run --config_file bundles"
PREPARE = "python -m cxrmonai prepare"
SEGMENTER = f"{MONAI_RUN}/deeplabv3plus/configs/train.json"
MAPS = f"{MONAI_RUN}/cam_localization/configs"
FAULTS = {
    "classify_my_images": (
        f"{PREPARE} csv --root practice --table labels.csv --out data/mine.h5",
        f"{PREPARE} csv --root practice --table labels.csv --class_columns Cardiomegally --out data/a.h5",
        f"{MONAI_RUN}/supervised/configs/train.json --data_file data/mine.h5 --encoder resnet19",
    ),
    "pretrain_on_my_archive": (
        f"{PREPARE} folder --root archiv --out data/a.h5",
        f"{MONAI_RUN}/simclr/configs/evaluate.json --data_file data/archive.h5",
    ),
    "where_is_the_model_looking": (
        f"{MAPS}/inference.json --dataset_dir practice/images --classes Mass",
        f"{MAPS}/inference.json --dataset_dir practice/images --ckpt_path absent/model.pt",
        f"{MAPS}/evaluate.json --data_file data/mine.h5",
    ),
    "segment_with_20_masks": (
        f"{PREPARE} csv --root practice --table masks.csv --mask_column Lung --out data/a.h5",
        f"{SEGMENTER} --data_file data/mine.h5",
        f"python -m cxrmonai cross-validate {SEGMENTER.split()[-1]} --folds 2 --data_file data/masks.h5 --work_dir a",
    ),
}


class Place:
    """A folder laid out as the repository's root, in which pages are gone through."""

    def __init__(self, folder):
        self.folder, self.done = folder, {}

    def go_through(self, page):
        """Runs a page, after those before it, once; what its commands printed."""
        for name in ORDER[: ORDER.index(page) + 1]:
            if name not in self.done:
                self.done[name] = [self._run(words) for words in commands(TASKS / f"{name}.md")]
        return self.done[page]

    def _run(self, words):
        known = words[:4] == ["python", "-m", "cxrmonai", "phantom"] and "--folder" in words
        if known and (self.folder / words[words.index("--folder") + 1]).exists():
            return None  # "if you have not made it yet"
        kind = name_of(words).split("/")[-1]
        finished = run_command([*words, *shlex.split(SMALLER.get(kind, ""))], self.folder)
        assert finished.code == 0, f"{shlex.join(words)}\n{finished.out}\n{finished.err}"
        return finished


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(REPOSITORY / "bundles", root / "bundles", ignore=shutil.ignore_patterns("models", "eval"))
    return Place(root)


def section(page, title):
    return (TASKS / f"{page}.md").read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("page", ORDER)
def test_a_page_from_its_first_command_to_the_files_it_promises(place, page):
    place.go_through(page)
    promised = re.findall(r"`([\w./-]+/[\w./-]+)`", section(page, "What you will see"))
    assert len(promised) >= 3
    assert [name for name in promised if not (place.folder / name).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), [(page, command) for page in ORDER for command in FAULTS[page]])
def test_what_can_go_wrong_is_told_in_the_words_of_the_page(place, page, command):
    place.go_through(page)
    finished = run_command(shlex.split(command), place.folder)
    assert finished.code == 1
    (line,) = [line for line in finished.err.splitlines() if line.startswith("error:")]
    assert f"`{line}`" in section(page, "What can go wrong")


@pytest.mark.parametrize("page", ORDER)
def test_a_page_has_all_parts_and_no_command_that_is_not_run(page):
    text = (TASKS / f"{page}.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert titles == ["What you need", "Steps", "What you will see", "What can go wrong", "Next"]
    assert 5 <= len(commands(TASKS / f"{page}.md")) <= 8
    assert re.findall(r"^```(?!bash)(\w*)\npython", text, re.M) == []


def test_all_pages_are_tested_and_named_in_the_readme():
    assert sorted(path.stem for path in TASKS.glob("*.md")) == sorted(ORDER)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [page for page in ORDER if f"docs/tasks/{page}.md" not in readme] == []


def test_links_lead_somewhere():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("bundles/*/docs/*.md")]
    dead = [
        f"{page.relative_to(REPOSITORY)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert dead == []
