"""Every kind of input becomes the same table; what cannot be read is named and the rest goes on."""

from __future__ import annotations

import gzip
import struct
import warnings
import zipfile

import pandas as pd
import pytest

from cxrmonai.data.reports import FINDINGS, label_reports
from cxrmonai.data.reports.patterns import SHIPPED
from cxrmonai.errors import CxrError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Pneumonia?</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH><major>normal</major></MeSH></eCitation>"""
BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<eCitation><AbstractText Label="FINDINGS">&b;</AbstractText></eCitation>"""


def xml(findings="", impression="", n=1):
    return XML.format(n=n, findings=findings, impression=impression)


@pytest.fixture
def run(tmp_path):
    """`run(input, **options)` gives the summary and the table."""

    def run(reports, **options):
        out = tmp_path / "out" / "labels.csv"
        summary = label_reports(reports, out, progress=False, **options)
        return summary, pd.read_csv(out, dtype={"report_id": str})

    return run


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "reports"
    (place / "p10" / "p100").mkdir(parents=True)
    (place / "1.xml").write_text(xml("No effusion.", "Cardiomegaly."))
    (place / "p10" / "p100" / "s50414267.txt").write_text(
        "FINDINGS:\n Possible mild interstitial edema.\n No effusion.\n"
    )
    return place


def test_a_folder(run, folder):
    (folder / "p10" / "index.html").write_text("x")
    (folder / ".hidden.txt").write_text("x")
    summary, table = run(folder)
    assert table.columns.tolist() == ["report_id", *FINDINGS, "edema_severity"]
    assert table["report_id"].tolist() == ["1", "s50414267"]
    assert table["Cardiomegaly"].tolist()[0] == 1
    assert table["Pleural Effusion"].tolist() == [0, 0]
    assert table["Edema"].tolist()[1] == -1
    assert table["edema_severity"].tolist()[1] == 2
    assert table["Pneumonia"].isna().all()
    assert table["No Finding"].isna().all()
    assert summary.written == 2
    assert summary.skipped == []
    assert summary.counts["Pleural Effusion"] == {"positive": 0, "negative": 2, "uncertain": 0, "blank": 0}
    assert summary.counts["Edema"] == {"positive": 0, "negative": 0, "uncertain": 1, "blank": 1}
    assert summary.severity == {0: 0, 1: 0, 2: 1, 3: 0}
    assert "2 files are neither .xml nor .txt, or hidden: passed over" in summary.notes
    assert "Pleural Effusion                     0         2         0         0" in summary.table()


def test_cells_are_whole_numbers(run, folder, tmp_path):
    run(folder)
    lines = (tmp_path / "out" / "labels.csv").read_text().splitlines()
    assert lines[1:] == ["1,,,1,,,,,,,,0,,,,", "s50414267,,,,,,-1,,,,,0,,,,2"]


def test_files_that_cannot_be_read_are_named_and_the_rest_goes_on(run, folder):
    (folder / "2.xml").write_text("<eCitation><AbstractText>")
    (folder / "3.xml").write_text(BOMB)
    (folder / "4.xml").write_text("<html><body>Report</body></html>")
    (folder / "5.xml").write_text(xml())
    (folder / "6.txt").write_text("  \n")
    (folder / "7.txt").write_bytes(b"PK\0\0\0")
    (folder / "8.txt").write_text("effusion " * 20_000)
    (folder / "9.txt").write_bytes(b"x" * (10 * 2**20 + 1))
    (folder / "A.txt").symlink_to(folder / "1.xml")
    (folder / "B.txt").write_text("INDICATION: effusion")
    summary, table = run(folder)
    assert table["report_id"].tolist() == ["1", "s50414267"]
    reasons = dict(summary.skipped)
    assert reasons.pop("2.xml").startswith("not readable as XML (")
    assert reasons == {
        "3.xml": "the XML declares entities, which no report needs: refused",
        "4.xml": "no AbstractText in it: not a report as Open-i publishes them",
        "5.xml": "neither findings nor impression in it",
        "6.txt": "the file is empty",
        "7.txt": "not a text file, whatever its name says",
        "8.txt": "over 100,000 characters: no single report",
        "9.txt": "over 10 MiB: not a report",
        "A.txt": "a link",
        "B.txt": "neither findings nor impression in it",
    }


def test_text_in_other_encodings(run, folder):
    (folder / "a.txt").write_bytes("IMPRESSION: Röntgen. Effusion.".encode("cp1252"))
    (folder / "b.txt").write_bytes("IMPRESSION: Effusion.".encode("utf-16"))
    (folder / "c.txt").write_bytes("\ufeffIMPRESSION: Effusion.".encode())
    summary, table = run(folder)
    assert table["Pleural Effusion"].tolist() == [0, 1, 1, 1, 0]
    assert "1 .txt reports are not UTF-8: read as Windows-1252" in summary.notes


def test_two_files_of_one_id_are_refused(run, folder):
    (folder / "p10" / "1.txt").write_text("IMPRESSION: Effusion.")
    with pytest.raises(CxrError, match=r"reports: 1\.xml and p10/1\.txt would be the same report id; rename one"):
        run(folder)


@pytest.fixture
def archive(tmp_path):
    """`make({name: content})` packs a ZIP archive."""

    def make(members, **options):
        path = tmp_path / "reports.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return path

    return make


def test_an_archive_is_read_in_place(run, archive, tmp_path):
    link = zipfile.ZipInfo("d/link.txt")
    link.external_attr = 0o120777 << 16
    path = archive({
        "d/1.xml": xml("Small effusion."),
        "d/2.txt": "IMPRESSION: No effusion.",
        "../evil.txt": "IMPRESSION: Effusion.",
        "/abs.txt": "IMPRESSION: Effusion.",
        "d/..\\..\\3.xml": xml("Effusion."),
        "C:/win.txt": "IMPRESSION: Effusion.",
        "big.txt": b"x" * (10 * 2**20 + 1),
        "dense.txt": b" " * 2**20,
        link: "/etc/passwd",
        "__MACOSX/d/._1.xml": b"x",
        "readme.md": "x",
    })  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    summary, table = run(path)
    assert table["report_id"].tolist() == ["1", "2"]
    assert table["Pleural Effusion"].tolist() == [1, 0]
    assert dict(summary.skipped) == {
        "../evil.txt": "its path leads out of the archive",
        "/abs.txt": "its path leads out of the archive",
        "d/..\\..\\3.xml": "its path leads out of the archive",
        "C:/win.txt": "its path leads out of the archive",
        "big.txt": "over 10 MiB: not a report",
        "dense.txt": "packed more than 200-fold: not a report",
        "d/link.txt": "a link",
    }
    assert "2 files are neither .xml nor .txt, or hidden: passed over" in summary.notes
    assert set(tmp_path.rglob("*")) - set(before) == {tmp_path / "out", tmp_path / "out" / "labels.csv"}


def test_members_that_are_encrypted_or_damaged(run, archive):
    path = archive(
        {"1.txt": "IMPRESSION: Effusion.", "2.txt": "IMPRESSION: Effusion.", "3.txt": "IMPRESSION: Effusion."}
    )
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\1\2")
    struct.pack_into("<H", data, central + 8, 1)
    second = data.index(b"PK\3\4", 4)
    data[second + 35] ^= 0xFF
    path.write_bytes(data)
    summary, table = run(path)
    assert table["report_id"].tolist() == ["3"]
    reasons = dict(summary.skipped)
    assert reasons["1.txt"] == "encrypted"
    assert reasons["2.txt"].startswith("cannot be unpacked (")


def test_the_same_member_twice_is_refused(run, archive):
    with pytest.raises(CxrError, match=r"reports\.zip: a/1\.txt and b/1\.xml would be the same report id"):
        run(archive({"a/1.txt": "IMPRESSION: Effusion.", "b/1.xml": xml("Effusion.")}))
    path = archive({"1.txt": "IMPRESSION: Effusion."})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("1.txt", "IMPRESSION: No effusion.")
    with pytest.raises(CxrError, match=r"reports\.zip: 1\.txt is in it twice"):
        run(path)


TABLE = 'uid,MeSH,findings,impression\n7,normal,"No effusion,\nno pneumothorax.",\n8,x,,Indication: cardiomegaly.\n'


def test_a_table(run, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeff" + TABLE + ",x,,Effusion.\n9,x,,\n10,x,a,b,c\n11,x\n12,x,,Fracture.,\n", encoding="utf-8")
    summary, table = run(path)
    assert table["report_id"].tolist() == ["7", "8", "12"]
    assert table["Pleural Effusion"].tolist()[0] == 0
    assert table["Cardiomegaly"].tolist()[1] == 1
    assert table["Fracture"].tolist()[2] == 1
    assert summary.notes == ["t.csv: reports from column findings and impression, ids from column uid"]
    assert summary.skipped == [
        ("row 3", "it has no id"),
        ("row 4", "it has no text"),
        ("row 5", "it has more cells than the header"),
        ("row 6", "it has no text"),
    ]


def test_a_packed_table_with_named_columns(run, tmp_path):
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("key,report,note\na,No effusion.,INDICATION: Mass. IMPRESSION: Effusion.\n")
    with pytest.raises(
        CxrError, match=r"t\.csv\.gz: no column of ids known by name; name it with --id_column \(key, report, note\)"
    ):
        run(path)
    assert run(path, id_column="key")[1]["Pleural Effusion"].tolist() == [0]
    table = run(path, id_column="key", text_column="note")[1]
    assert table["Pleural Effusion"].tolist() == [1]
    assert table["Lung Lesion"].isna().all()
    both = run(path, id_column="key", text_column="report,note")[1]
    assert both["Pleural Effusion"].tolist() == [1]
    for option in ("id_column", "text_column"):
        with pytest.raises(CxrError, match=r"t\.csv\.gz: no column 'x'; it has key, report, note"):
            run(path, **{"id_column": "key", option: "x"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the table is empty"),
        ("id,report\n", "the table has no rows"),
        ("id,words\n1,x\n", r"no column of reports known by name; name it with --text_column \(id, words\)"),
        ("id,report\n1,a\n2,b\n1,c\n", "rows 1 and 3 have the same id in column 'id'"),
        ('id,report\n1,"a\n2,b\n', r"not a readable CSV table \("),
        (b"id,report\n1,\xff\xfe\n", r"not a readable CSV table \("),
    ],
)
def test_tables_that_cannot_be_read(run, tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CxrError, match=rf"t\.csv: {message}") as caught:
        run(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "labels.csv").exists()


def test_inputs_that_are_none(run, tmp_path, folder):
    with pytest.raises(CxrError, match="absent: no such file or folder"):
        run(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CxrError, match=r"empty: no \.xml or \.txt report in it"):
        run(tmp_path / "empty")
    (tmp_path / "r.tgz").write_bytes(b"x")
    with pytest.raises(CxrError, match=r"r\.tgz: give a folder or \.zip"):
        run(tmp_path / "r.tgz")
    (tmp_path / "r.zip").write_bytes(b"x")
    with pytest.raises(CxrError, match=r"r\.zip: cannot be read \(not a ZIP archive"):
        run(tmp_path / "r.zip")
    (tmp_path / "t.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(CxrError, match=r"t\.csv\.gz: cannot be read \("):
        run(tmp_path / "t.csv.gz")
    with pytest.raises(CxrError, match="reports: --id_column is for a table"):
        run(folder, id_column="id")
    for path in folder.rglob("*.*"):
        path.write_text("")
    with pytest.raises(CxrError, match=r"none of 2 reports can be labelled; the first, 1\.xml: the file is empty"):
        run(folder)


def test_other_patterns(run, folder, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(SHIPPED.read_text(encoding="utf-8").replace("      - cardiomegaly\n", "      - big pump\n"))
    assert run(folder, patterns=mine)[1]["Cardiomegaly"].isna().all()
    (folder / "1.xml").write_text(xml("Big pump."))
    assert run(folder, patterns=mine)[1]["Cardiomegaly"].tolist()[0] == 1


def test_real_reports_keep_their_number_and_ids(run, shared_data):
    path = shared_data / "indiana_reports.zip"
    summary, table = run(path)
    with zipfile.ZipFile(path) as file:
        stems = sorted(name.removesuffix(".xml") for name in file.namelist())
    assert summary.written == 400
    assert summary.skipped == []
    assert sorted(table["report_id"]) == stems
    for name in FINDINGS:
        counted = table[name].map({1: "positive", 0: "negative", -1: "uncertain"}).fillna("blank").value_counts()
        assert summary.counts[name] == {kind: counted.get(kind, 0) for kind in summary.counts[name]}
    assert set(table["No Finding"].dropna()) == {1}
