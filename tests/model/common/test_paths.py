"""Paths in saved texts: relative to the run folder, or a last part; the inverse finds the files."""

import pytest

from model.common.paths import expanded, portable, without_folders


@pytest.fixture
def places(tmp_path):
    """A run folder, and a file and a folder beside its parent, with a space in a name."""
    for name in ("runs/run", "a prior"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "my.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{}/a prior", "{{run}}/../../a prior"),
        ("--prior {}/a prior", "--prior {{run}}/../../a prior"),
        ("function:{}/my.py:kindness", "function:{{run}}/../../my.py:kindness"),
        ("0.1*classifier:{}/a prior:LABEL>=0.5", "0.1*classifier:{{run}}/../../a prior:LABEL>=0.5"),
        ("classifier:{}/a prior<=1", "classifier:{{run}}/../../a prior<=1"),
        ("{}/runs/run", "{{run}}/."),
    ],
)
def test_an_absolute_path_is_written_from_the_run_folder(places, text, written):
    text = text.format(places)
    folder = places / "runs" / "run"
    assert portable(text, folder) == written.format()
    assert expanded(portable(text, folder), folder) == text


@pytest.mark.parametrize("text", ["prior", "../prior", "regex:/no/such/place/", "a / b", "/", "//"])
def test_other_texts_stay(places, text):
    assert portable(text, places) == text
    assert without_folders(text) == text


def test_paths_elsewhere_keep_their_last_part(places, monkeypatch):
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")
    assert portable(f"{places}/my.py", places) == "{elsewhere}/my.py"


def test_lists_and_keys_are_changed_too(places):
    value = {f"--prior {places}/my.py": [f"{places}/my.py", 3, None]}
    assert portable(value, places) == {"--prior {run}/my.py": ["{run}/my.py", 3, None]}


def test_prose_names_files_without_folders(places):
    text = without_folders(f"{places} by {places}/my.py:x, '{places}'")
    assert text == f"{places.name} by my.py:x, '{places.name}'"
    assert without_folders("a/b 1/2 regex:/no/such/place/") == "a/b 1/2 regex:/no/such/place/"
