"""A SimCLR run made once, from the README's own command, for the tests that need a trained bundle."""

import shutil

import pytest
from bundle_runs import REPOSITORY, SMALL, options, readme_command, run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder laid out as the repository's root, so that a run leaves nothing in the repository itself."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(REPOSITORY / "bundles", root / "bundles", ignore=shutil.ignore_patterns("models", "eval"))
    return root


@pytest.fixture(scope="module")
def trained(workplace, small_phantom):
    """The workplace after the README's command on a small phantom; its output is in `train.out` and `train.err`."""
    made = run([*readme_command(), "--data_file", small_phantom, *options(SMALL)], workplace)
    (workplace / "train.out").write_text(made.stdout)
    (workplace / "train.err").write_text(made.stderr)
    assert made.returncode == 0, made.stderr
    return workplace
