"""CheXpert as published by Stanford (Irvin et al., AAAI 2019), and the masks of CheXlocalize (Saporta et al., 2022)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.reading import image_files
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.tables import keep_present, mask_rows, read_csv, require_columns, with_splits
from cxrmonai.data.table import MASK_COLUMNS, make_table, parse_age, parse_labels, parse_sex
from cxrmonai.errors import CxrError

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
ABOUT = "CheXpert of Stanford: 224,316 radiographs, 14 findings read off the reports with their uncertainty"
NEEDS = (
    "train.csv (or train_cheXbert.csv, train_visualCheXbert.csv, see --labels)",
    "valid.csv, or val_labels.csv as CheXlocalize names it (optional)",
    "test.csv, or test_labels.csv as CheXlocalize names it (optional)",
    "train/, valid/ and test/, or the batch folders as the archives unpack",
    "gt_segmentations_val.json and gt_segmentations_test.json of CheXlocalize, named with --masks (optional)",
)
WHERE = "https://stanfordmlgroup.github.io/competitions/chexpert/"
MASKS_WHERE = "https://stanfordaimi.azurewebsites.net/datasets/23c56a0d-15de-405b-87c8-99c30138950c"
_TRAINING = {
    "chexpert": ("train.csv",),
    "chexbert": ("train_cheXbert.csv",),
    "visualchexbert": ("train_visualCheXbert.csv", "train_VisualCheXbert.csv"),
}
_VALID = ("valid.csv", "val_labels.csv")
_TEST = ("test.csv", "test_labels.csv")
_MASK_FILES = ("gt_segmentations_val.json", "gt_segmentations_test.json")
_IMAGE = r"(patient\d+)/(study\d+)/(view\d+_(?:frontal|lateral))"


def load(
    root: Path,
    labels: str = "chexpert",
    valid_as: str | None = None,
    frontal_only: bool = False,
    masks: str | None = None,
    seed: int = 0,
) -> Collection:
    """Reads the published tables.

    Images are found by patient, study and view, so that the full release, the small one, the archives as they unpack,
    resized copies and CheXlocalize's folders all do. A patient is older than 0 years here: an age of 0 counts as
    unknown. Frontal images without AP or PA are `FRONTAL`.

    Args:
        root: folder that holds the tables, or its parent.
        labels: who labelled the training images: chexpert (`train.csv`; uncertain is -1), chexbert
            (`train_cheXbert.csv`) or visualchexbert (`train_visualCheXbert.csv`).
        valid_as: split that the published valid set becomes, val or test; by default val where a test table is here,
            and test where there is none, as radiologists labelled it and train.csv was labelled by software.
        frontal_only: leave the lateral images out.
        masks: CheXlocalize's JSON of masks, or the folder of `gt_segmentations_val.json` and
            `gt_segmentations_test.json`, as a path from here or below the root.
        seed: of the split.

    Returns:
        The collection; image ids are those of CheXlocalize, such as `patient64541_study1_view1_frontal`. Where masks
        are given, `original_height` and `original_width` are their size, and an empty mask says that the finding is
        nowhere.

    Raises:
        CxrError: a file is missing or is not as published, or an option has a value that is not known.
    """
    if labels not in _TRAINING:
        raise CxrError(f"--labels {labels}: must be one of {', '.join(_TRAINING)}")
    if valid_as not in (None, "val", "test"):
        raise CxrError(f"--valid_as {valid_as}: must be val or test")
    notes: list[str] = []
    tables = _tables(root, _TRAINING[labels], valid_as, notes)
    rows = _present(root, tables, notes)
    if frontal_only:
        rows = _frontal(rows, notes)
    drawn, frame = _masks(root, masks, rows["image_id"], notes)
    columns = {
        "image": rows["image"],
        "image_id": rows["image_id"],
        "patient_id": rows["patient_id"],
        "study_id": rows["study_id"],
        "view": rows["view"],
        "age": rows["age"],
        "sex": rows["sex"],
    }
    table = make_table(columns | frame, rows[list(FINDINGS)])
    table["split"] = rows["split"]
    table = with_splits(table, seed, True, notes)
    return Collection("chexpert", root, table, list(FINDINGS), masks=drawn, notes=notes)


def _tables(
    root: Path, training: tuple[str, ...], valid_as: str | None, notes: list[str]
) -> list[tuple[Path, pd.DataFrame]]:
    """The tables that are here, brought to one form, with the split that each becomes."""
    train, valid, test = (_find(root, names) for names in (training, _VALID, _TEST))
    if train is None and training != _TRAINING["chexpert"]:
        raise CxrError(f"{root}: no {training[0]} in it or in a CheXpert* folder below; it is published at {WHERE}")
    if train is None and valid is None and test is None:
        wanted = " or ".join((*training[:1], *_VALID, *_TEST))
        raise CxrError(f"{root}: no {wanted} in it or in a CheXpert* folder below; they are published at {WHERE}")
    if valid is not None:
        split = valid_as or ("val" if test else "test")
        notes.append(f"the published valid set is {split} (--valid_as)")
        if split == "val" and test is None:
            notes.append("there is no test set: no test.csv or test_labels.csv is here")
    else:
        split = ""
    found = ((train, "train"), (valid, split), (test, "test"))
    return [(file, _rows(file, value)) for file, value in found if file is not None]


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        for pattern in (name, f"CheXpert*/{name}"):
            found = sorted(root.glob(pattern))
            if len(found) > 1:
                raise CxrError(f"{root}: holds {found[0]} and {found[1]}; give the folder of one release as --root")
            if found:
                return found[0]
    return None


def _rows(file: Path, split: str) -> pd.DataFrame:
    table = read_csv(file)
    require_columns(table, ["Path", *FINDINGS], file)
    parts = table["Path"].str.extract(_IMAGE + r"\.\w+$")
    strange = parts[0].isna()
    if strange.any():
        raise CxrError(
            f"{file}: Path holds '{table.loc[strange, 'Path'].iloc[0]}', not …/patientNNNNN/studyN/viewN_frontal.jpg; "
            "restore the file as published"
        )
    blank = pd.Series("", index=table.index)
    side = table.get("Frontal/Lateral", blank).where(lambda text: text != "", parts[2].str.rpartition("_")[2])
    projection = table.get("AP/PA", blank)
    frontal = projection.where(projection.isin(["AP", "PA"]), "FRONTAL")
    age = pd.Series(parse_age(table.get("Age", blank)), index=table.index)
    rows = pd.DataFrame(
        {
            "stem": table["Path"].str.rpartition(".")[0].str.replace(r"^CheXpert[^/]*/", "", regex=True),
            "key": parts[0] + "/" + parts[1] + "/" + parts[2],
            "image_id": parts[0] + "_" + parts[1] + "_" + parts[2],
            "patient_id": parts[0],
            "study_id": parts[0] + "_" + parts[1],
            "view": frontal.where(side.str.lower() == "frontal", "LATERAL"),
            "age": age.where(age > 0),
            "sex": parse_sex(table.get("Sex", blank)),
            "split": split,
        }
    )
    return pd.concat([rows, parse_labels(table, FINDINGS)], axis=1)


def _present(root: Path, tables: list[tuple[Path, pd.DataFrame]], notes: list[str]) -> pd.DataFrame:
    """The rows whose image is here, with its path."""
    files = pd.DataFrame({"path": [path.relative_to(root).as_posix() for path in image_files(root)]}, dtype=object)
    files["stem"] = files["path"].str.replace(r"\.[^./]*$", "", regex=True)
    key = files["stem"].str.extract(f"{_IMAGE}$")
    files["key"] = key[0] + "/" + key[1] + "/" + key[2]
    placed = [(file, rows.assign(image=_paths(root, file, rows, files))) for file, rows in tables]
    if not any(rows["image"].notna().any() for _, rows in placed):
        file, rows = placed[0]
        return keep_present(rows, rows["image"].notna(), file, notes)
    kept = []
    for file, rows in placed:
        if rows["image"].notna().any():
            kept.append(keep_present(rows, rows["image"].notna(), file, notes))
        else:
            notes.append(f"none of the {len(rows)} images of {file.name} is here: left out")
    return pd.concat(kept, ignore_index=True)


def _paths(root: Path, file: Path, rows: pd.DataFrame, files: pd.DataFrame) -> pd.Series:
    """The path of each row's image below the root: where the table says, or else wherever it is; NaN where nowhere."""
    beside = file.parent.relative_to(root).as_posix()
    stem = rows["stem"] if beside == "." else f"{beside}/" + rows["stem"]
    exact = stem.map(files.drop_duplicates("stem").set_index("stem")["path"])
    anywhere = rows["key"].map(files.drop_duplicates("key").dropna().set_index("key")["path"])
    paths = pd.Series(np.where(exact.notna(), exact, anywhere), index=rows.index, dtype=object)
    for name, wanted in (("stem", stem[exact.notna()]), ("key", rows.loc[exact.isna(), "key"])):
        twice = files[files[name].duplicated(keep=False) & files[name].isin(wanted)]
        if len(twice):
            copies = twice.loc[twice[name] == twice[name].iloc[0], "path"].tolist()
            raise CxrError(f"{root}: {copies[0]} and {copies[1]} are one image; give the folder of one copy as --root")
    return paths


def _frontal(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    lateral = rows["view"] == "LATERAL"
    if lateral.all():
        raise CxrError("every image that is here is lateral; leave --frontal_only out")
    notes.append(f"{int(lateral.sum())} lateral images left out (--frontal_only)")
    return rows[~lateral].reset_index(drop=True)


def _masks(
    root: Path, masks: str | None, image_ids: pd.Series, notes: list[str]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Masks of these images, and the columns of the frame that they were drawn in."""
    if masks is None:
        return pd.DataFrame(columns=list(MASK_COLUMNS)), {}
    drawn = pd.concat([_mask_table(file) for file in _mask_files(root, str(masks))], ignore_index=True)
    known = drawn["image_id"].isin(image_ids)
    if not known.all():
        count = drawn.loc[~known, "image_id"].nunique()
        notes.append(f"masks of {count} images that are not here: left out")
    drawn = drawn[known]
    sizes = drawn.drop_duplicates("image_id").set_index("image_id")
    frame = {f"original_{edge}": image_ids.map(sizes[edge]).to_numpy(float) for edge in ("height", "width")}
    parts = [mask_rows(rows["image_id"], name, rles=rows["rle"]) for name, rows in drawn.groupby("finding", sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(MASK_COLUMNS)), frame


def _mask_files(root: Path, masks: str) -> list[Path]:
    for place in (Path(masks), root / masks):
        found = [place] if place.is_file() else [place / name for name in _MASK_FILES if (place / name).is_file()]
        if found:
            return found
    raise CxrError(f"{root / masks}: no {' or '.join(_MASK_FILES)}; they are published at {MASKS_WHERE}")


def _mask_table(file: Path) -> pd.DataFrame:
    """One row per image and finding of a JSON {image id: {finding: {"size": [height, width], "counts": text}}}."""
    columns = ["image_id", "finding", "height", "width", "rle"]
    try:
        rows = [
            (image_id, finding, *_size(rle), json.dumps({"size": rle["size"], "counts": _counts(rle)}))
            for image_id, findings in json.loads(file.read_text(encoding="utf-8")).items()
            for finding, rle in findings.items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CxrError(
            f"{file}: not CheXlocalize's masks (image, finding, then COCO's size and counts); restore it as published"
        ) from error
    table = pd.DataFrame(rows, columns=columns)
    if (table.groupby("image_id")[["height", "width"]].nunique() > 1).to_numpy().any():
        raise CxrError(f"{file}: the masks of an image differ in size; restore the file as published")
    return table


def _size(rle: dict) -> tuple[int, int]:
    height, width = rle["size"]
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise ValueError("size")
    return height, width


def _counts(rle: dict) -> str:
    if not isinstance(rle["counts"], str):
        raise TypeError("counts")
    return rle["counts"]
