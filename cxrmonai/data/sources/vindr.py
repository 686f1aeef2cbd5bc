"""VinDr-CXR of PhysioNet (Nguyen et al., Scientific Data 2022), and its training part as Kaggle's VinBigData has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxrmonai.data.reading import image_files
from cxrmonai.data.sources.base import Collection
from cxrmonai.data.sources.tables import images_folder, keep_present, need, read_csv, require_columns, with_splits
from cxrmonai.data.table import make_table
from cxrmonai.errors import CxrError

NO_FINDING = "No finding"
FINDINGS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation",
    "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst",
    "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
    "Other diseases", NO_FINDING,
)  # fmt: skip
KAGGLE_FINDINGS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", NO_FINDING,
)  # fmt: skip
ABOUT = "VinDr-CXR of PhysioNet and VinBigData of Kaggle: PA radiographs, boxes by several radiologists"
NEEDS = (
    "of PhysioNet: annotations/image_labels_train.csv and image_labels_test.csv, or one of them",
    "of PhysioNet: annotations/annotations_train.csv and annotations_test.csv, for boxes (optional)",
    "of Kaggle: train.csv",
    "train/ and test/ with the images, .dicom or resized copies of the same names, see --images",
    "train_meta.csv with the original sizes (image_id, dim0, dim1), where the images are resized copies (optional)",
)
WHERE = "https://physionet.org/content/vindr-cxr/ and https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection"
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_SPELLING = {"Other disease": "Other diseases"}
_SHARES = {"any": 0.0, "majority": 0.5, "all": 1.0}


def load(
    root: Path, consensus: str = "majority", images: str | None = None, square: bool = False, seed: int = 0
) -> Collection:
    """Reads the published tables.

    Three radiologists read each training image, on their own; the test labels of PhysioNet are a consensus already.
    Every reader's boxes are kept, with the reader in the column `reader` (blank for a consensus). "No finding" is a
    column like the findings, as a reader's own answer: where the readers name different things, neither a finding nor
    "No finding" has a majority. Patients are not published, so that each image counts as its own. PhysioNet's
    test set is the test split; of Kaggle's training images all three splits are drawn.

    Args:
        root: folder with the tables.
        consensus: which share of an image's readers must mark a finding: majority (more than half), any, or all.
        images: folder below the root that holds the images; by default `train` and `test`, or else the whole root.
        square: the images are copies squeezed to squares; boxes are brought to a square with the original's longer
            edge. Needs `train_meta.csv`.
        seed: of the split.

    Returns:
        The collection; boxes are in original pixels, whose frame is `original_height` × `original_width` where a
        `*_meta.csv` tells it, and the file's own otherwise.

    Raises:
        CxrError: a file is missing or is not as published, or an option has a value that is not known.
    """
    if consensus not in _SHARES:
        raise CxrError(f"--consensus {consensus}: must be one of {', '.join(_SHARES)}")
    notes: list[str] = []
    sets, names = _sets(root)
    files = _files(root, images)
    tables, drawn = [], []
    for split, file, votes, boxes in sets:
        agreed = _agree(votes, names, consensus)
        agreed = agreed.assign(image=agreed["image_id"].map(files), split=split)
        tables.append((file, agreed))
        drawn.append(boxes)
    rows = _kept(tables, notes)
    spare = len(set(files) - {name for _, table in tables for name in table["image_id"]})
    if spare:
        notes.append(f"{spare} images are in no table: left out")
    boxes = _boxes(drawn, rows["image_id"], notes)
    columns = {"image": rows["image"], "image_id": rows["image_id"], "study_id": rows["image_id"]}
    columns["view"] = ["PA"] * len(rows)
    sizes = _sizes(root, rows, len(boxes) > 0, notes)
    if sizes is not None:
        if square:
            boxes, sizes = _to_square(boxes, sizes)
        else:
            notes.append("original sizes are those of *_meta.csv; copies squeezed to squares need --square")
        columns |= {f"original_{edge}": sizes[edge] for edge in ("height", "width")}
    elif square:
        raise CxrError(f"{root}: --square needs the original sizes; no train_meta.csv (image_id, dim0, dim1) is here")
    table = make_table(columns, rows[names])
    published = bool((rows["split"] != "").any())
    if published:
        table["split"] = rows["split"]
    table = with_splits(table, seed, published, notes)
    return Collection("vindr", root, table, names, boxes=boxes, notes=notes)


def _sets(root: Path) -> tuple[list[tuple[str, Path, pd.DataFrame, pd.DataFrame]], list[str]]:
    """Split, table's file, votes and boxes of each published part; the findings."""
    found = []
    for split in ("train", "test"):
        file = _optional(root, f"image_labels_{split}.csv")
        if file is not None:
            drawn = _optional(root, f"annotations_{split}.csv")
            boxes = pd.DataFrame() if drawn is None else _drawn(_read_rows(drawn, FINDINGS), drawn)
            found.append((split, file, _read_votes(file), boxes))
    if found:
        return found, list(FINDINGS)
    file = need(root, ["annotations/image_labels_train.csv", "annotations/image_labels_test.csv", "train.csv"], WHERE)
    rows = _read_rows(file, KAGGLE_FINDINGS)
    return [("", file, _count_votes(rows), _drawn(rows, file))], list(KAGGLE_FINDINGS)


def _optional(root: Path, name: str) -> Path | None:
    places = (root / "annotations" / name, root / name)
    return next((path for path in places if path.is_file()), None)


def _read_votes(file: Path) -> pd.DataFrame:
    """`image_id`, and 0 or 1 for each finding, one row per image and reader."""
    table = read_csv(file)
    table = table.rename(columns={old: new for old, new in _SPELLING.items() if new not in table})
    require_columns(table, ["image_id", *FINDINGS], file)
    votes = table[list(FINDINGS)].apply(pd.to_numeric, errors="coerce")
    strange = ~votes.isin([0, 1]).to_numpy()
    if strange.any():
        name = FINDINGS[int(strange.any(axis=0).argmax())]
        raise CxrError(f"{file}: column '{name}' holds something other than 0 and 1; restore the file as published")
    return pd.concat([table[["image_id"]], votes.astype(float)], axis=1)


def _read_rows(file: Path, known: tuple[str, ...]) -> pd.DataFrame:
    """Rows of image, reader, finding and box; the reader is blank where the table has none."""
    table = read_csv(file)
    require_columns(table, ["image_id", "class_name", *_EDGES], file)
    table["class_name"] = table["class_name"].str.strip().replace(_SPELLING)
    strange = table.loc[~table["class_name"].isin(known), "class_name"]
    if len(strange):
        raise CxrError(f"{file}: class_name holds '{strange.iloc[0]}'; known are {', '.join(known)}")
    return table if "rad_id" in table else table.assign(rad_id="")


def _count_votes(rows: pd.DataFrame) -> pd.DataFrame:
    """As `_read_votes`, from the rows of boxes; a reader who found nothing has a row that says so."""
    who, readings = pd.factorize(rows["image_id"] + "\n" + rows["rad_id"])
    votes = np.zeros((len(readings), len(KAGGLE_FINDINGS)))
    votes[who, pd.Index(KAGGLE_FINDINGS).get_indexer(rows["class_name"])] = 1
    table = pd.DataFrame(votes, columns=list(KAGGLE_FINDINGS))
    table.insert(0, "image_id", [reading.split("\n")[0] for reading in readings])
    return table


def _agree(votes: pd.DataFrame, names: list[str], consensus: str) -> pd.DataFrame:
    """One row per image, in the order of the table: 1 where enough of its readers say so, else 0."""
    share = votes.groupby("image_id", sort=False)[names].mean()
    least = _SHARES[consensus]
    return ((share > least) if least < 1 else (share == 1)).astype(float).reset_index()


def _drawn(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Boxes of all readers, whichever images are here."""
    rows = rows[rows["class_name"] != NO_FINDING]
    edges = rows[list(_EDGES)].apply(pd.to_numeric, errors="coerce")
    if edges.isna().to_numpy().any():
        raise CxrError(f"{file}: a box holds something other than numbers; restore the file as published")
    return pd.DataFrame(
        {
            "image_id": rows["image_id"],
            "finding": rows["class_name"],
            "x": edges["x_min"],
            "y": edges["y_min"],
            "w": edges["x_max"] - edges["x_min"],
            "h": edges["y_max"] - edges["y_min"],
            "reader": rows["rad_id"],
        }
    )


def _boxes(drawn: list[pd.DataFrame], image_ids: pd.Series, notes: list[str]) -> pd.DataFrame:
    filled = [boxes for boxes in drawn if len(boxes)]
    if not filled:
        return pd.DataFrame(columns=["image_id", "finding", "x", "y", "w", "h", "reader"])
    boxes = pd.concat(filled, ignore_index=True)
    boxes = boxes[boxes["image_id"].isin(image_ids)]
    flat = (boxes["w"] <= 0) | (boxes["h"] <= 0)
    if flat.any():
        notes.append(f"{int(flat.sum())} boxes without an area: left out")
    return boxes[~flat].reset_index(drop=True)


def _files(root: Path, images: str | None) -> dict[str, str]:
    """Image id → path below the root."""
    published = [] if images else [folder for folder in (root / "train", root / "test") if folder.is_dir()]
    folders = published or [images_folder(root, images, where=WHERE)]
    files: dict[str, str] = {}
    for path in (path for folder in folders for path in image_files(folder)):
        below = path.relative_to(root).as_posix()
        if path.stem in files:
            raise CxrError(f"{root}: {files[path.stem]} and {below} are one image; name one folder with --images")
        files[path.stem] = below
    return files


def _kept(tables: list[tuple[Path, pd.DataFrame]], notes: list[str]) -> pd.DataFrame:
    """The rows whose image is here."""
    if not any(table["image"].notna().any() for _, table in tables):
        file, table = tables[0]
        return keep_present(table, table["image"].notna(), file, notes)
    kept = []
    for file, table in tables:
        if table["image"].notna().any():
            kept.append(keep_present(table, table["image"].notna(), file, notes))
        else:
            notes.append(f"none of the {len(table)} images of {file.name} is here: left out")
    return pd.concat(kept, ignore_index=True)


def _sizes(root: Path, rows: pd.DataFrame, boxed: bool, notes: list[str]) -> pd.DataFrame | None:
    """Original height and width of each row, from `*_meta.csv`."""
    found = [path for name in ("train_meta.csv", "test_meta.csv") for path in sorted(root.glob(f"**/{name}"))]
    dicom = rows["image"].str.lower().str.endswith((".dicom", ".dcm"))
    if not found:
        if boxed and not dicom.all():
            notes.append(
                "images are no DICOM and no train_meta.csv is here: boxes are taken to be in pixels of the files, "
                "which is wrong for resized copies"
            )
        return None
    tables = []
    for file in found:
        table = read_csv(file)
        require_columns(table, ["image_id", "dim0", "dim1"], file)
        edges = table[["dim0", "dim1"]].apply(pd.to_numeric, errors="coerce")
        if not (edges > 0).to_numpy().all():
            raise CxrError(f"{file}: dim0 or dim1 holds something other than a size in pixels")
        tables.append(edges.astype(float).set_axis(table["image_id"], axis=0))
    sizes = pd.concat(tables)
    sizes = sizes[~sizes.index.duplicated()].reindex(rows["image_id"])
    unknown = sizes["dim0"].isna().to_numpy() & ~dicom.to_numpy()
    if unknown.any():
        notes.append(f"{int(unknown.sum())} images are not in {found[0].name}: boxes are in pixels of the files there")
    return sizes.rename(columns={"dim0": "height", "dim1": "width"}).set_axis(rows["image_id"].to_numpy(), axis=0)


def _to_square(boxes: pd.DataFrame, sizes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    edge = sizes.max(axis=1)
    scaled = boxes.copy()
    for side, names in (("width", ("x", "w")), ("height", ("y", "h"))):
        factor = boxes["image_id"].map(edge / sizes[side]).fillna(1.0)
        for name in names:
            scaled[name] = boxes[name] * factor
    return scaled, pd.DataFrame({"height": edge, "width": edge})
