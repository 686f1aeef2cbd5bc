"""Commands that make and describe stores and label tables."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from cxrmonai.cli.exit_codes import SOME_SKIPPED
from cxrmonai.errors import CxrError


def prepare(
    source: str,
    root: str | None = None,
    out: str | None = None,
    size: int = 256,
    workers: int | None = None,
    depth: int = 8,
    overwrite: bool = False,
    seed: int = 0,
    shard: str | None = None,
    vocabulary: str | None = None,
    same_patients: bool = False,
    key_file: str | None = None,
    crosswalk: str | None = None,
    **options: Any,
) -> int:
    """Packs one or several data sets into a store. An interrupted run goes on when the same command is given again.

    `python -m cxrmonai sources NAME` tells what a source needs and which options of its own it has; they follow here as
    --OPTION VALUE. The exit code is 3 where the store was written but some images could not be read, and 1 where
    nothing was written.

    Args:
        source: a source's name, several as A,B, or a recipe FILE.json (docs/data.md).
        root: folder of the data set, or of each as DIR1,DIR2.
        out: the store to write, NAME.h5.
        size: edge of the square images in pixels.
        workers: processes; as many as there are cores by default.
        depth: 8 or 16 bits a pixel.
        overwrite: replace an existing store.
        seed: of the splits.
        shard: i/N packs the i-th of N parts into NAME.part-i-of-N.h5, for `merge`.
        vocabulary: published or common names of findings; common by default where there are several sources.
        same_patients: patient ids mean the same persons in all sources.
        key_file: file with a secret that patient, study and image ids are hashed with.
        crosswalk: CSV file to write that tells which id got which pseudonym.
        **options: of the sources.
    """
    from cxrmonai.data.merging import parse_shard, part_path
    from cxrmonai.data.prepare import prepare as run
    from cxrmonai.data.pseudonyms import read_key
    from cxrmonai.data.recipe import collect

    if out is None:
        raise CxrError("--out is missing: the store to write, NAME.h5")
    division = None if shard is None else parse_shard(shard)
    key = None if key_file is None else read_key(str(key_file))
    collection = collect(source, root, options, vocabulary, same_patients, seed, workers)
    for note in collection.notes:
        print(f"note: {note}")
    path = str(out) if division is None else part_path(str(out), *division)
    arguments = {"shard": division, "key": key, "crosswalk": crosswalk and str(crosswalk)}
    made = run(collection, path, size=size, workers=workers, depth=depth, overwrite=overwrite, **arguments)
    resumed = f", {made.resumed} of them from an interrupted run" if made.resumed else ""
    print(f"{made.path}: {made.written} images written{resumed}, {len(made.skipped)} skipped")
    for image, reason in made.skipped.itertuples(index=False):
        print(f"skipped {image}: {reason}", file=sys.stderr)
    return SOME_SKIPPED if len(made.skipped) else 0


def merge(out: str, *parts: str, overwrite: bool = False) -> int:
    """Puts the parts together that `prepare --shard i/N` made; the store is the one that a single run makes.

    Args:
        out: the store to write, NAME.h5.
        *parts: the parts; by default NAME.part-*-of-N.h5 beside it.
        overwrite: replace an existing store.
    """
    from cxrmonai.data.merging import find_parts
    from cxrmonai.data.merging import merge as run

    chosen = [str(part) for part in parts] or find_parts(str(out))
    store = run(chosen, str(out), overwrite)
    print(f"{out}: {len(store)} images of {len(chosen)} parts, {len(store.skipped)} skipped")
    return 0


def sources(name: str | None = None) -> int:
    """Lists the data sets that `prepare` reads, with what each needs; with a name, that one and its options.

    Args:
        name: of a source.
    """
    from cxrmonai.data.sources import SOURCES

    shared = inspect.signature(prepare).parameters
    if name is not None and name not in SOURCES:
        raise CxrError(f"unknown source '{name}'; known are {', '.join(SOURCES)}")
    for each in [name] if name else SOURCES:
        entry = SOURCES[each]
        print(f"{each}: {entry.about}" if name else f"\n{each}: {entry.about}")
        for need in entry.needs:
            print(f"    needs {need}")
        if entry.where:
            print(f"    from  {entry.where}")
        told = {option: text for option, text in entry.option_help().items() if option not in shared}
        if name:
            for option, text in told.items():
                print(f"    --{option}: {text}")
        elif told:
            print(f"    has   {', '.join(f'--{option}' for option in told)}")
    return 0


def info(file: str, picture: str | bool | None = None) -> int:
    """Describes a store: size, splits, findings, boxes, masks, what was skipped; warns of what looks wrong in it.

    Args:
        file: a store, NAME.h5.
        picture: PNG to draw a contact sheet and histograms on; by default NAME.info.png beside the store. With
            --nopicture the images are not read: neither picture nor warnings.
    """
    from cxrmonai.data.describe import describe
    from cxrmonai.data.store import open_store

    store = open_store(str(file))
    print(describe(store))
    if picture is not False:
        from cxrmonai.data.quality import inspect
        from cxrmonai.report.store_picture import draw_store

        found = inspect(store)
        for warning in found.warnings():
            print(f"warning: {warning}")
        path = store.path.with_suffix(".info.png") if picture in (None, True) else str(picture)
        print(f"{draw_store(store, found, path)}: contact sheet and histograms")
    return 0


def label(
    reports: str,
    out: str,
    text_column: str | None = None,
    id_column: str | None = None,
    patterns: str | None = None,
) -> int:
    """Reads findings off radiology reports: the 14 of CheXpert and a grade of edema.

    The exit code is 3 where some reports could not be read, and 1 where nothing was written.

    Args:
        reports: ZIP or folder of .xml and .txt files, or a CSV.
        out: the table to write, NAME.csv: report_id, then 1, 0, -1 (uncertain) or blank for each finding.
        text_column: of a CSV.
        id_column: of a CSV.
        patterns: file with your own patterns (docs/reports.md).
    """
    from cxrmonai.data.reports import label_reports

    made = label_reports(Path(str(reports)), Path(str(out)), text_column, id_column, patterns)
    for note in made.notes:
        print(f"note: {note}")
    print(made.table())
    print(f"{out}: {made.written} reports labelled, {len(made.skipped)} skipped")
    for report, reason in made.skipped:
        print(f"skipped {report}: {reason}", file=sys.stderr)
    return SOME_SKIPPED if made.skipped else 0


def phantom(
    out: str | None = None,
    patients: int = 600,
    size: int = 128,
    seed: int = 0,
    overwrite: bool = False,
    sheet: str | None = None,
    folder: str | None = None,
    masks: int = 20,
    exposure: float = 0.0,
    prevalence: float = 1.0,
) -> int:
    """Makes synthetic radiographs with exact masks and boxes, as a store or as files.

    Args:
        out: the store to write, NAME.h5.
        patients: how many; each has one to four studies.
        size: edge of the images in pixels, 32 to 2048.
        seed: of the whole population.
        overwrite: replace an existing store.
        sheet: a PNG or JPEG to draw 16 of the radiographs on, findings outlined.
        folder: a folder to make with images/*.png, labels.csv, masks/ and masks.csv, to practise on.
        masks: how many patients get masks in the folder, of their first radiograph.
        exposure: what this hospital's images are off the usual exposure, -1 (brighter) to 1 (darker); not for a sheet.
        prevalence: share of the usual findings that this hospital's patients have, 0 to 1; not for a sheet.
    """
    from cxrmonai.data.phantom_folder import write_phantom_folder
    from cxrmonai.data.phantom_store import write_phantom, write_sheet

    if out is None and sheet is None and folder is None:
        raise CxrError("nothing to make; give --out FILE.h5, --folder DIR or --sheet FILE.png")
    if sheet is not None:
        print(f"{write_sheet(str(sheet), patients, size, seed)}: 16 synthetic radiographs, findings outlined")
    if out is not None:
        site = {"exposure": exposure, "prevalence": prevalence}
        count = write_phantom(str(out), patients, size, seed, overwrite=overwrite, **site)
        print(f"{out}: {count} synthetic radiographs of {patients} patients")
    if folder is not None:
        count = write_phantom_folder(str(folder), patients, size, seed, masks, exposure, prevalence)
        print(f"{folder}: {count} synthetic radiographs of {patients} patients, with labels.csv")
    return 0
