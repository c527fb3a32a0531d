"""Every number of every script has a range; a number out of range is refused by name."""

import dataclasses
import re
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from experiments.roofline.__main__ import Roofline
from experiments.shared.argument_types import Check
from experiments.shared.command_line import option
from tests.experiments.scripts import NAMES, arguments_of

OUT_OF_RANGE = {
    int: (-1, 10**12, 2**64),
    float: (float("nan"), float("inf"), -float("inf"), 10**400),
}


def numbers(hint, checked=False):
    """Numeric types within a type, each with True if a check stands beside the type."""
    if get_origin(hint) is Annotated:
        checked |= any(isinstance(metadata, Check) for metadata in get_args(hint)[1:])
        yield from numbers(get_args(hint)[0], checked)
    elif hint in (int, float):
        yield hint, checked
    else:
        within = False if get_origin(hint) is tuple else checked
        for part in get_args(hint):
            yield from numbers(part, within)


def test_all_scripts_are_found():
    assert {"steer", "rlhf", "equivalence", "collapse", "guide_zoo", "pretrain"} <= {*NAMES}
    assert len(NAMES) >= 25


@pytest.mark.parametrize("script", NAMES)
def test_every_number_has_a_range(script):
    """The options of guides apart, which the guides check themselves."""
    hints = get_type_hints(arguments_of(script), include_extras=True)
    bare = [name for name, hint in hints.items() for _, checked in numbers(hint) if not checked]
    assert not bare


@pytest.mark.parametrize("script", NAMES)
def test_a_number_out_of_range_is_refused_by_name(script):
    arguments = arguments_of(script)
    hints, defaults = get_type_hints(arguments, include_extras=True), arguments()
    for field in dataclasses.fields(arguments):
        for kind, _ in numbers(hints[field.name]):
            several = isinstance(getattr(defaults, field.name), tuple)
            for value in OUT_OF_RANGE[kind]:
                with pytest.raises(SystemExit, match=f"^{option(field.name)} is "):
                    dataclasses.replace(defaults, **{field.name: (value,) if several else value})


@pytest.mark.parametrize("script", NAMES)
def test_names_and_folders_are_checked_as_well(script, tmp_path):
    arguments = arguments_of(script)
    names = {field.name for field in dataclasses.fields(arguments)}
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    wrong = {
        "prior": {"": "is empty", " ": "is empty"},
        "encoder": {"": "is empty"},
        "guide": {"nonsense": "is 'nonsense', expected one of: "},
        "objective": {"nonsense": "is 'nonsense', expected one of: "},
        "device": {
            "gpu": "gpu: ",
            "meta": "no numbers",
            "cuda:99": "cuda:99: ",
            "hpu": "hpu: ",
            "fpga": "fpga: .{,200}$",
        },
        "out": {
            tmp_path / "file": "is a file, expected a folder",
            tmp_path / "file" / "runs": "is a file, expected a folder",
            tmp_path / "link": "is a link to what is not there",
            tmp_path / "link" / "runs": "is a link to what is not there",
            tmp_path / ("x" * 300): "File name too long",
        },
        "prompts_file": {
            tmp_path: "Is a directory",
            tmp_path / "none": "No such file .*, expected a text file",
        },
        "stories": {tmp_path / "none": "No such file .*, expected a folder"},
        "preferences": {"": "is empty", " ": "is empty"},
        "config": {tmp_path: "Is a directory", tmp_path / "none": "No such file"},
    }
    for name in names & wrong.keys():
        for value, message in wrong[name].items():
            with pytest.raises(SystemExit, match=f"^{option(name)}.*{message}"):
                arguments(**{name: value})
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SystemExit, match=r"--out .* cannot be written to"):
        arguments_of("agents")(out=tmp_path / "runs")


@pytest.mark.parametrize("value", [1e-300, 1e300])
def test_number_too_small_for_a_division_in_float32_is_refused(value):
    fields = (
        ("steer", "beta"),
        ("steer", "clip_norm"),
        ("steer", "temperature"),
        ("agents", "betas"),
        ("rlhf", "prior_scale"),
    )
    for script, name in fields:
        given = f"{option(name)} is {re.escape(repr(value))}"
        message = f"{given}, expected .*beyond, nothing is left but rounding"
        with pytest.raises(SystemExit, match=message):
            arguments_of(script)(**{name: (value,) if name == "betas" else value})


def test_of_several_there_are_some_and_none_is_given_twice():
    for script, name, values in (
        ("best_of_n", "sizes", (2, 2)),
        ("agents", "betas", (0.5, 0.5)),
        ("guide_zoo", "worlds", ("two-modes",) * 2),
        ("rlhf", "num-preferences", (20, 20)),
        ("step_memory", "particles", (8, 8)),
        ("step_memory", "micro-batches", (8, 8)),
    ):
        for wrong in ((), values):
            with pytest.raises(
                SystemExit, match=f"--{name} is .*expected one or more, all different"
            ):
                arguments_of(script)(**{name.replace("-", "_"): wrong})
    with pytest.raises(SystemExit, match="--networks is empty"):
        Roofline(networks=())
