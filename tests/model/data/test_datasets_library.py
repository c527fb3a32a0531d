"""Prompts from Parquet, from folders of the `datasets` library, and from the hub."""

import datetime
import sys

import pytest

from model.data.prompt_data import read_prompts
from model.data.reading import source_files
from model.data.record import DataError

CHAT = [{"role": "user", "content": "a"}]
ROWS = [{"prompt": CHAT, "answer": "4"}, {"prompt": [*CHAT, *CHAT], "answer": None}]


@pytest.fixture
def library(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_prompts_are_read_from_parquet_and_saved_data_sets(library, tmp_path):
    table = library.Dataset.from_list(ROWS)
    table.to_parquet(tmp_path / "p.parquet")
    table.save_to_disk(tmp_path / "saved")
    library.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(tmp_path / "dict")
    (tmp_path / "folder").mkdir()
    table.to_parquet(tmp_path / "folder" / "train.parquet")
    (tmp_path / "lines").mkdir()
    table.to_json(tmp_path / "lines" / "data.jsonl")
    for name in ("p.parquet", "saved", "dict", "folder", "lines"):
        data = read_prompts(tmp_path / name)
        assert data.prompts == (tuple(CHAT), (*CHAT, *CHAT))
        assert data.columns == {"answer": ("4", None)}
        assert data.places[1].endswith("row 1")
    assert read_prompts(table).columns == {"answer": ("4", None)}
    assert read_prompts(tmp_path / "dict", split="test", columns=[]).columns == {}
    assert len(read_prompts(tmp_path / "folder", limit=1)) == 1


def test_columns_that_json_cannot_hold_are_refused_with_the_way_out(library, tmp_path):
    import PIL.Image

    rows = [
        {"prompt": "a", "day": datetime.date(2024, 1, 2), "picture": PIL.Image.new("RGB", (2, 2))}
    ]
    table = library.Dataset.from_list(rows)
    table.save_to_disk(tmp_path / "saved")
    table.remove_columns("picture").to_parquet(tmp_path / "p.parquet")
    for name, column in (("saved", "day"), ("p.parquet", "day")):
        with pytest.raises(DataError, match=f"row 0: column '{column}' is .*name the columns"):
            read_prompts(tmp_path / name)
    with pytest.raises(DataError, match=r"column 'picture' is .*name the columns to read"):
        read_prompts(tmp_path / "saved", columns=["picture"])
    assert read_prompts(tmp_path / "saved", columns=[]).prompts == ("a",)
    with pytest.raises(DataError, match="column 'x' is missing, got 'prompt', 'day'"):
        read_prompts(tmp_path / "p.parquet", columns=["x"])


def test_splits_and_configurations_that_are_missing_are_named(library, tmp_path):
    table = library.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "saved")
    parts = library.DatasetDict({"dev": table, "test": table})
    parts.save_to_disk(tmp_path / "dict")
    for split in (None, "train"):
        with pytest.raises(DataError, match=f"has the splits dev, test.*split is {split!r}"):
            read_prompts(tmp_path / "dict", split=split)
    with pytest.raises(DataError, match="without splits, and split is 'train'"):
        read_prompts(tmp_path / "saved", split="train")
    with pytest.raises(DataError, match="it has no config or revision"):
        read_prompts(tmp_path / "saved", config="main")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: EmptyDatasetError"):
        read_prompts(tmp_path / "empty")


def test_damaged_files_are_refused(library, tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"p.parquet, row 0: not read as Parquet"):
        read_prompts(tmp_path / "p.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    with pytest.raises(DataError, match=r"folder: DatasetGenerationError.*JSON parse error"):
        read_prompts(tmp_path / "folder")


def test_name_that_is_on_no_hub_is_refused(library, monkeypatch):
    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        raise ConnectionError("Couldn't reach the hub")

    calls = []
    monkeypatch.setattr(library, "load_dataset", load_dataset)
    message = "owner/name: no file or folder of that name, and on the hub: ConnectionError"
    with pytest.raises(DataError, match=message):
        read_prompts("owner/name", config="main", revision="v1")
    assert calls == [(("owner/name", "main"), {"revision": "v1"})]


@pytest.mark.parametrize(("name", "source"), [("pyarrow", "p.parquet"), ("datasets", "owner/name")])
def test_extra_is_named_where_a_library_is_missing(name, source, monkeypatch):
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r'install the extra `data`, pip install "elbo-rl\[data\]"'):
        read_prompts(source)


def test_files_of_a_source_are_listed_for_digests(tmp_path):
    for name in ("a.jsonl", "data/b.jsonl", ".hidden", ".git/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert source_files(tmp_path) == {name: tmp_path / name for name in ("a.jsonl", "data/b.jsonl")}
    assert source_files(tmp_path / "a.jsonl") == {"a.jsonl": tmp_path / "a.jsonl"}
    assert source_files("owner/name") == {}
