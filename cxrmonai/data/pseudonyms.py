"""Ids that tell nobody who a patient is: keyed digests, or numbers."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cxrmonai.data.sources.base import Collection
from cxrmonai.errors import CxrError

COLUMNS = ("image_id", "patient_id", "study_id")
DIGITS = 20
LEAST_KEY = 16


def read_key(path: str | os.PathLike[str]) -> bytes:
    """Reads a secret key from a file.

    Args:
        path: of the file; white space around the key does not count.

    Raises:
        CxrError: the file is missing, or the key shorter than 16 bytes.
    """
    path = Path(path)
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise CxrError(f"{path}: the key file cannot be read ({error.strerror})") from error
    if len(key) < LEAST_KEY:
        raise CxrError(
            f"{path}: a key needs at least {LEAST_KEY} bytes; make one with `openssl rand -hex 32 > {path.name}`"
        )
    return key


def pseudonymise(collection: Collection, key: bytes | None = None) -> tuple[Collection, pd.DataFrame]:
    """Replaces image, patient and study ids.

    With a key an id becomes the first 80 bits of its HMAC-SHA256, the same in every store that is made with that key,
    and not to be guessed without it. Without a key ids are numbered in an order that says nothing of them; such numbers
    mean the same only in stores of the same images.

    Args:
        collection: with the ids as they are at the hospital.
        key: secret; see `read_key`.

    Returns:
        The collection with pseudonyms, marked as private, and a table with `image` (path), and `original_…` and the
        pseudonym of each id, which tells who is who and belongs under lock.

    Raises:
        CxrError: two ids got one digest.
    """
    table = collection.table.copy()
    crosswalk = table[["image", *COLUMNS]].rename(columns={name: f"original_{name}" for name in COLUMNS})
    images: dict[str, str] = {}
    for name in COLUMNS:
        known = [value for value in table[name].unique() if value]
        names = _digests(name, known, key) if key is not None else _numbers(name, known)
        if len(set(names.values())) < len(known):
            raise CxrError(f"two values of {name} got one pseudonym; use another key")
        table[name] = crosswalk[name] = table[name].map({**names, "": ""})
        images = images or names
    side = {
        name: frame.assign(image_id=frame["image_id"].map(images))
        for name, frame in (("boxes", collection.boxes), ("masks", collection.masks))
    }
    return replace(collection, table=table, private=True, **side), crosswalk


def _digests(name: str, values: list[str], key: bytes) -> dict[str, str]:
    def digest(value: str) -> str:
        return hmac.new(key, f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()[:DIGITS]

    return {value: digest(value) for value in values}


def _numbers(name: str, values: list[str]) -> dict[str, str]:
    def order(value: str) -> bytes:
        return hashlib.sha256(f"{name}\0{value}".encode()).digest()

    digits = max(6, len(str(len(values))))
    kind = name.removesuffix("_id")
    return {value: f"{kind}{k:0{digits}d}" for k, value in enumerate(sorted(values, key=order), 1)}
