"""Docstrings of the project as reStructuredText, for the API reference.

A docstring marks code by single backticks, and equations and examples by indentation. Stars, bars
and underscores have no meaning there.
"""

import ast
import re
from collections.abc import Iterator
from textwrap import dedent

from site_extensions.equations import is_equation

SECTION = re.compile(
    r"(Args|Arguments|Attributes|Returns|Return|Raises|Yields|Warns|Example|Examples):$"
)
LABEL = re.compile(r"(Question|Claim|Source|Printed|Written): ")
ITEM = re.compile(r"(- |\d+\. )")


def restructured(lines: list[str]) -> list[str]:
    """A docstring with its indented blocks as code, and everything else escaped."""
    result: list[str] = []
    in_section, in_item, position = False, False, 0
    while position < len(lines):
        line = lines[position]
        is_indented = line.startswith("  ")
        if line.strip() and not is_indented:
            in_section, in_item = bool(SECTION.match(line)), bool(ITEM.match(line))
        before = lines[position - 1].strip() if position else ""
        if is_indented and not (before or in_section or in_item):
            block = list(_block(lines[position:]))
            position += len(block)
            result += [*_code(block), ""]
            continue
        starts_item = bool(ITEM.match(line)) and not ITEM.match(before)
        if before and not is_indented and (LABEL.match(line) or starts_item):
            result.append("")
        result.append(escaped(line))
        position += 1
    return result


def _block(lines: list[str]) -> Iterator[str]:
    """Lines up to the first one that is not indented."""
    for line in lines:
        if line.strip() and not line.startswith("  "):
            return
        yield line


def _code(block: list[str]) -> list[str]:
    """A block as equations, as Python if the block parses, else as text."""
    text = dedent("\n".join(block)).strip("\n")
    try:
        ast.parse(text)
        directive = ".. code-block:: python"
    except SyntaxError:
        directive = ".. equations::" if is_equation(text) else ".. code-block:: text"
    return ["", directive, "", *(f"    {line}" for line in text.split("\n"))]


def escaped(line: str) -> str:
    """A line of prose: code in double backticks, the rest without marks of reStructuredText."""
    parts = line.split("`")
    if len(parts) % 2 == 0:
        return line
    prose = [re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    code = [f"``{part}``" for part in parts[1::2]]
    code += [""]
    texts = []
    for before, quoted, after in zip(prose, code, [*prose[1:], ""], strict=True):
        joins = quoted and re.match(r"\w", after)
        texts += [before, quoted, "\\ " if joins else ""]
    return "".join(texts)
