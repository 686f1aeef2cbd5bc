"""TensorBoard on the runs."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from cxrmonai.deploy.board import run_folders

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path):
    for name in ("a/eval/tensorboard", "b"):
        with SummaryWriter(tmp_path / "runs" / name) as writer:
            writer.add_scalar("train/loss", 1.0, 1)
    return tmp_path / "runs"


def test_runs_are_found_by_their_folder(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert list(run_folders([])) == ["runs/a/eval", "runs/b"]
    assert list(run_folders([str(runs / "b")])) == [str(runs / "b").lstrip("/")]


def test_it_serves_until_interrupted(runs):
    command = [sys.executable, "-m", "cxrmonai", "board", str(runs), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell's `&` makes it ignored
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **heeded)
    try:
        line = process.stdout.readline()
        assert line.startswith("2 runs at http://127.0.0.1:"), line
        address = line.split(" at ")[1].split()[0]
        for _ in range(100):
            if b"train/loss" in urllib.request.urlopen(f"{address}data/plugin/scalars/tags").read():
                break
            time.sleep(0.2)
        else:
            pytest.fail("the runs are not shown")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()


def test_faults_are_one_line(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run of TensorBoard below bundles and runs" in refused("board")
    assert "no such folder" in refused("board", tmp_path / "missing")
