"""Files that are loaded again: written whole or not at all, and held against their digests."""

import json
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from guides import GUIDES, FineTuned
from model import LanguageModel
from model.common.files import (
    MANIFEST,
    DamagedFileError,
    check_digests,
    delete_unfinished,
    saved_together,
    tensors_digest,
    write_atomically,
)
from tests.model.tiny import tiny


def operations_that_fail(monkeypatch, attempt):
    """Run `attempt` until no operation on files fails.

    Each run fails at one operation, a later one in each run, and at all operations after.
    """
    names = ("fsync", "replace", "rename", "open", "mkdir", "unlink", "rmdir")
    whole = {name: getattr(os, name) for name in names}
    for nth in range(1000):
        count = 0

        def counted(operation, allowed=nth):
            def run(*args, **kwargs):
                nonlocal count
                count += 1
                if count > allowed:
                    raise OSError(28, "No space left on device")
                return operation(*args, **kwargs)

            return run

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, counted(whole[name]))
            try:
                attempt()
            except OSError:
                failed = True
            else:
                failed = False
        yield nth
        if not failed:
            return


def test_a_file_has_the_old_or_the_new_content(tmp_path, monkeypatch):
    path = tmp_path / "arguments.json"
    path.write_text("old")
    seen = []
    for _ in operations_that_fail(monkeypatch, lambda: write_atomically(path, "new")):
        seen.append(path.read_text())
        path.write_text("old")
    assert set(seen) == {"old", "new"}
    assert len(seen) > 3
    assert seen[-1] == "new"


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "link", "ours")
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert (tmp_path / "link").read_text() == "ours"


def test_a_save_that_failed_is_not_loaded_as_a_mixture(tmp_path, monkeypatch):
    """After any failed operation the folder has the old content, the new one, or is refused."""

    def write(text):
        with saved_together(tmp_path) as new:
            (new / "a.txt").write_text(text)
            (new / "b.txt").write_text(text)

    write("old")
    outcomes = set()
    for _ in operations_that_fail(monkeypatch, lambda: write("new")):
        try:
            check_digests(tmp_path)
        except DamagedFileError:
            outcomes.add("refused")
        else:
            texts = {(tmp_path / name).read_text() for name in ("a.txt", "b.txt")}
            assert len(texts) == 1, texts
            outcomes |= texts
        write("old")
    assert outcomes == {"old", "new", "refused"}


def test_every_flipped_byte_is_noticed(tmp_path):
    with saved_together(tmp_path) as new:
        (new / "one.json").write_text('{"step": 1}')
    check_digests(tmp_path)
    data = (tmp_path / "one.json").read_bytes()
    for place in range(len(data)):
        (tmp_path / "one.json").write_bytes(
            data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        )
        with pytest.raises(DamagedFileError, match=r"one\.json is not as it was saved"):
            check_digests(tmp_path)
    (tmp_path / "one.json").unlink()
    with pytest.raises(DamagedFileError, match=r"one\.json is missing"):
        check_digests(tmp_path)
    (tmp_path / MANIFEST).unlink()
    check_digests(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"sha256": 3}', '{"sha256": {"a": 1}}', '{"sha256": {"../a": "0"}}', "\0" * 40],
)
def test_garbled_digests_are_named(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DamagedFileError, match=rf"{MANIFEST} is damaged"):
        check_digests(tmp_path)


def test_links_are_followed_only_where_that_is_meant(tmp_path):
    with saved_together(tmp_path) as new:
        (new / "a.txt").write_text("a")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    check_digests(tmp_path)
    with pytest.raises(DamagedFileError, match="is a link"):
        check_digests(tmp_path, links=False)


def test_earlier_files_stay_with_their_digests(tmp_path):
    for name in ("first.txt", "second.txt"):
        with saved_together(tmp_path) as new:
            (new / name).write_text(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "first.txt", "second.txt"]
    (tmp_path / "first.txt").write_text("other")
    with pytest.raises(DamagedFileError, match=r"first\.txt is not as it was saved"):
        check_digests(tmp_path)


def test_damaged_digests_do_not_keep_anything_from_being_saved_again(tmp_path):
    for _ in range(2):
        with saved_together(tmp_path) as new:
            (new / "first.txt").write_text("first")
        check_digests(tmp_path)
        (tmp_path / MANIFEST).write_text("{")


def test_files_of_a_killed_save_are_deleted_and_links_are_not(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder / ".saving-a", folder / "inner" / ".saving-b", elsewhere):
        path.mkdir(parents=True)
        (path / "file").touch()
    (folder / "inner" / ".first.txt.0a1b.partial").touch()
    (folder / ".saving-link").symlink_to(elsewhere)
    (folder / ".link.partial").symlink_to(elsewhere / "file")
    (folder / "first.txt").touch()
    delete_unfinished(folder)
    assert sorted(path.name for path in folder.rglob("*")) == [
        ".link.partial",
        ".saving-link",
        "first.txt",
        "inner",
    ]
    assert (elsewhere / "file").is_file()


def test_the_digest_of_tensors_tells_name_type_shape_and_value():
    one = torch.arange(4.0)
    others = [
        ("b", one),
        ("a", one.double()),
        ("a", one.view(2, 2)),
        ("a", one.clone().index_fill_(0, torch.tensor(3), 3.5)),
    ]
    digests = {tensors_digest([pair]) for pair in [("a", one), *others]}
    assert len(digests) == 5
    zeros = (
        torch.zeros(4, dtype=dtype) for dtype in (torch.float32, torch.int32)
    )  # of the same bytes
    assert len({tensors_digest([("a", tensor)]) for tensor in zeros}) == 2
    assert tensors_digest([("a", one[::2])]) == tensors_digest([("a", torch.tensor([0.0, 2.0]))])
    assert tensors_digest([("a", torch.tensor(1.0, dtype=torch.bfloat16))])


def flip_last_byte(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("name", ["fine-tuned", "lora", "soft-prompt", "mean-field"])
def test_a_damaged_guide_is_refused_by_name(name, tmp_path):
    prior = tiny()
    prompts = prior.encode(["a", "b"])
    GUIDES[name](prior, prompts).save_pretrained(tmp_path)
    GUIDES[name](prior, prompts).load_pretrained(tmp_path)
    flip_last_byte(next(tmp_path.glob("*.safetensors")))
    with pytest.raises(DamagedFileError, match=r"\.safetensors is not as it was saved"):
        GUIDES[name](prior, prompts).load_pretrained(tmp_path)


def test_a_damaged_prior_is_refused_by_name_and_one_without_digests_is_taken(tmp_path):
    prior = tiny()
    prior.save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / MANIFEST).read_text())["sha256"]) == {
        path.name for path in tmp_path.iterdir() if path.name != MANIFEST
    }
    load = {"max_new_tokens": 3, "device": "cpu"}
    AutoModelForCausalLM.from_pretrained(tmp_path)
    flip_last_byte(tmp_path / "model.safetensors")
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is not as it was saved"):
        LanguageModel.from_pretrained(tmp_path, **load)
    (tmp_path / MANIFEST).unlink()
    assert LanguageModel.from_pretrained(tmp_path, **load).vocab_size == prior.vocab_size


def test_a_guide_of_another_type_is_refused(tmp_path):
    FineTuned(tiny(dtype=torch.float32)).save_pretrained(tmp_path)
    match = r"parameters differ, first .* in float32, expected .* in bfloat16"
    with pytest.raises(ValueError, match=match):
        FineTuned(tiny(dtype=torch.bfloat16)).load_pretrained(tmp_path)
