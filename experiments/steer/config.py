"""`--config FILE`: arguments of `steer` from YAML, or from the `arguments.json` of an earlier run.

    prior: smollm2
    reward: [vader, 0.05*length]
    guide: lora
    lora:
      rank: 4

Keys are the options without their dashes. Options on the command line come before the file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from experiments.shared.command_line import check_used, hints_of, option, pieces, without_effect
from experiments.steer.guide_options import OPTIONS
from model.common.paths import ELSEWHERE, expanded

BY_LAUNCH = {"divide"}
"""Fields whose effect depends on the launch: a file may serve several launches."""
COMMAND_LINE_ALONE = {"config", "resume", "complete", "trust_remote_code"}
"""Fields that no file sets."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def configured(args: Any, parse: Callable[[Any], Any]) -> Any:
    """The default arguments of `steer`, changed by the file that `args.config` names, then `parse`.

    Exits at an unknown key or a value of another type, by name, and at a key of YAML that has no
    effect, neither in the file alone nor beside the command line. A path that an
    `arguments.json` does not hold has to be among the arguments.

    Args:
        args: arguments by the command line alone.
        parse: parser of the command line by other defaults.
    """
    where, default = f"--config {args.config}", type(args)()
    read, is_record = _read(args.config, where)
    content = entries(read)
    absent = {key: value for key, value in content.items() if ELSEWHERE in str(value)}
    for key, value in absent.items():
        if getattr(args, key, None) == getattr(default, key, None):
            problem = f"{key} is {value}, a path that the file does not hold"
            raise SystemExit(f"{where}: {problem}. Give {option(key)} beside it")
    held = {key: value for key, value in content.items() if key not in absent}
    own = changed(default, held, where)
    merged = parse(own)
    unused = () if is_record else held.keys() & without_effect(own).keys() - BY_LAUNCH
    check_used(unused, merged, f"{where}: ")
    overridden = {key: getattr(default, key) for key in without_effect(merged)}
    return replace(merged, config=None, **overridden)


def changed(args: Any, values: Mapping[str, Any], where: str) -> Any:
    """Arguments with the values of a file, by `entries`; exits if a key or a type is not known."""
    names, hints = settable(args), hints_of(type(args))
    own: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        guide, _, setting = key.partition(".")
        if key in names:
            own[key] = _typed(f"{where}: {key}", hints[key], value)
        elif guide in OPTIONS and setting in _settings(guide):
            hint = hints_of(OPTIONS[guide])[setting]
            options.setdefault(guide, {})[setting] = _typed(f"{where}: {key}", hint, value)
        else:
            raise SystemExit(f"{where} has {key!r}, no option of steer{_suggestion(key, names)}")
    guides = {name: replace(getattr(args.options, name), **each) for name, each in options.items()}
    return replace(args, **own, options=replace(args.options, **guides))


def settable(args: Any) -> set[str]:
    """Names of the arguments that a file sets, besides the options of guides."""
    return {field.name for field in fields(args)} - COMMAND_LINE_ALONE - {"options"}


def _read(file: Path, where: str) -> tuple[dict[str, Any], bool]:
    """The mapping in a file, with the paths as they are here; True for a record of a run."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SystemExit(f"{where}: expected YAML or JSON, got {reason}") from error
    is_record = isinstance(content, dict) and isinstance(content.get("arguments"), dict)
    content = content["arguments"] if is_record else content
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SystemExit(f"{where}: expected names of options with values, got {str(content)[:80]}")
    return expanded(content, file.parent), is_record


def entries(content: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name; the options of guides, nested or not, as `lora.rank`."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        key = name.replace("-", "_")
        if key == "options" and isinstance(value, dict):
            values |= entries(value)
        elif key in OPTIONS and isinstance(value, dict):
            inner = value.items()
            values |= {f"{key}.{str(name).replace('-', '_')}": each for name, each in inner}
        elif key not in COMMAND_LINE_ALONE:
            values[key] = value
    return values


def _settings(guide: str) -> set[str]:
    return {field.name for field in fields(OPTIONS[guide])}


def _suggestion(key: str, names: set[str]) -> str:
    """The most similar name, as the end of a sentence."""
    dotted = {f"{guide}.{setting}" for guide in OPTIONS for setting in _settings(guide)}
    close = get_close_matches(key, sorted(names | dotted), 1)
    return f": do you mean {close[0]!r}?" if close else ". --help lists the options"


def _typed(where: str, hint: Any, value: Any) -> Any:
    """A value from a file in the type of its field; exits if the value is of another type."""
    parts = [hint, *pieces(hint)]
    if value is None and type(None) in parts:
        return None
    if any(get_origin(part) is tuple for part in parts):
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) for item in items):
            return tuple(items)
        raise SystemExit(f"{where} is {json.dumps(value, default=str)}, expected texts")
    kinds = {kind for kind in KINDS if kind in parts}
    kinds |= {
        type(text) for part in parts if get_origin(part) is Literal for text in get_args(part)
    }
    if Path in parts and isinstance(value, str):
        return Path(value)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        expected = " or ".join(text for kind, text in KINDS.items() if kind in kinds) or "a path"
        raise SystemExit(f"{where} is {json.dumps(value, default=str)}, expected {expected}")
    return value
