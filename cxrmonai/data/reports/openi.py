"""A report as Open-i publishes it: one XML file with sections, codes and the names of its images."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from cxrmonai.errors import CxrError


@dataclass(frozen=True)
class OpenIReport:
    """What of the XML is used.

    Attributes:
        sections: pairs of label (`FINDINGS`, `IMPRESSION`, `INDICATION`, …) and text, blank ones left out.
        codes: `major` codes of the human coders.
        images: ids of its images, such as `CXR103_IM-0023-1001`: names of the published files without suffix.
    """

    sections: tuple[tuple[str, str], ...]
    codes: tuple[str, ...]
    images: tuple[str, ...]


def parse_openi(data: bytes) -> OpenIReport:
    """Reads a report.

    Args:
        data: of the file.

    Raises:
        CxrError: it is no XML, declares entities, or is no report as Open-i publishes them. The sentence does not name
            the file.
    """
    try:
        root = fromstring(data)
    except DefusedXmlException as error:
        raise CxrError("the XML declares entities, which no report needs: refused") from error
    except (ParseError, ValueError, LookupError) as error:
        raise CxrError(f"not readable as XML ({error})") from error
    texts = [(element.get("Label") or "", "".join(element.itertext()).strip()) for element in root.iter("AbstractText")]
    if not texts:
        raise CxrError("no AbstractText in it: not a report as Open-i publishes them")
    return OpenIReport(
        sections=tuple((label.strip().upper(), text) for label, text in texts if text),
        codes=tuple(text for element in root.iter("major") if (text := (element.text or "").strip())),
        images=tuple(name for element in root.iter("parentImage") if (name := (element.get("id") or "").strip())),
    )
