"""What a checkpoint is, for a person to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from cxrmonai.networks.encoders import EncoderDescription
from cxrmonai.transforms.preprocessing import Preprocessing

SHOWN = 8


@dataclass(frozen=True)
class DroppedKeys:
    """Weights of a file that an encoder does not need.

    Attributes:
        prefix: that their names share.
        count: of them.
        what: they are.
    """

    prefix: str
    count: int
    what: str


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint is; `str()` of it is for a person.

    Attributes:
        path: of the file, or the `timm:` name.
        layout: the published model, or ours.
        description: of the encoder.
        feature_size: length C of `encoder(x)` (B, C).
        preprocessing: of the encoder's input; `None` where the file does not tell.
        used: number of the file's weights that the encoder took.
        dropped: the other weights.
        others: further entries of the file, none of which are used.
        settings: of the training, for our own.
    """

    path: str
    layout: str
    description: EncoderDescription
    feature_size: int
    preprocessing: Preprocessing | None
    used: int
    dropped: tuple[DroppedKeys, ...] = ()
    others: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [
            ("checkpoint", self.path),
            ("layout", self.layout),
            ("encoder", named(self.description)),
            ("features", f"{self.feature_size} numbers an image"),
            ("input", str(self.preprocessing or "the file does not tell its size; give --image_size")),
        ]
        if self.settings:
            rows.append(("trained with", ", ".join(f"{key} {value}" for key, value in self.settings.items())))
        rows.append(("used", f"{self.used} keys"))
        rows += [("dropped", f"{one.count} keys {one.prefix}* ({one.what})") for one in self.dropped]
        if self.others:
            rows.append(("not read", ", ".join(self.others)))
        return "\n".join(f"{label:<13} {text}" for label, text in rows)


def named(description: EncoderDescription) -> str:
    """A build in words: the name, and what is not as usual."""
    size = f", {description.image_size} px" if description.image_size else ""
    usual = ("name", "in_channels", "stem", "image_size")
    more = [
        f", {one.name} {getattr(description, one.name)}"
        for one in fields(description)
        if one.name not in usual and getattr(description, one.name) != one.default
    ]
    channels = f"{description.in_channels} channel{'s' if description.in_channels > 1 else ''}"
    return f"{description.name} ({channels}, {description.stem} stem{size}{''.join(more)})"


def listed(label: str, keys: Sequence[str]) -> str:
    """`label a, b, c and 4 more`; empty where there are no keys."""
    if not keys:
        return ""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{label} {', '.join(keys[:SHOWN])}{more}"
