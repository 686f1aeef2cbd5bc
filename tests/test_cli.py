"""The command line: what it lists, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from cxrmonai.cli import COMMANDS, main
from cxrmonai.data.sources import SOURCES

DOCS = Path(__file__).resolve().parents[1] / "docs"


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert left.value.code == 0
    return capsys.readouterr().out


def test_sources_are_listed_with_what_they_need(capsys):
    listed = said(capsys, "sources")
    for name, entry in SOURCES.items():
        assert f"\n{name}: {entry.about}\n" in listed
        assert entry.needs
        for need in entry.needs:
            assert f"    needs {need}\n" in listed
        assert (f"    from  {entry.where}\n" in listed) == bool(entry.where)


@pytest.mark.parametrize("name", SOURCES)
def test_each_option_of_a_source_is_told(name, capsys):
    listed = said(capsys, "sources", name)
    for option, text in SOURCES[name].option_help().items():
        assert len(text) > 5, f"--{option} of {name} has no help"
        assert (f"    --{option}: {text}\n" in listed) == (option not in ("seed", "workers"))


def test_the_docs_name_every_source_and_command():
    pages = {page.name: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
    for name in SOURCES:
        assert f"`{name}`" in pages["data.md"], name
    everything = " ".join(pages.values()) + (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for command in set(COMMANDS) - {"version"}:
        assert f"cxrmonai {command}" in everything, command


def test_an_unknown_source_is_refused(refused):
    assert "unknown source 'nih2'; known are nih, chexpert" in refused("sources", "nih2")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["prepare", "nih", "/tmp"], "--out is missing"),
        (["prepare", "nih", "--out=a.h5"], "--root is missing"),
        (["prepare", "nih", "/tmp", "a.h5", "--key_file=/absent"], "the key file cannot be read"),
        (["merge", "a.h5", "--force"], "merge has no flag --force"),
        (["info", "a.h5", "--image"], "info has no flag --image"),
    ],
)
def test_faults_are_one_line(refused, arguments, word):
    assert word in refused(*arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_nothing_and_shows_the_flags(command):
    shown = subprocess.run([sys.executable, "-m", "cxrmonai", command, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stdout + shown.stderr
    assert "SYNOPSIS" in shown.stdout + shown.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_quietly():
    command = f"{sys.executable} -m cxrmonai sources | head -1"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert shown.stderr == ""
