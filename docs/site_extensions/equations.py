"""Equations of docstrings, which are plain text, as HTML: letters, signs, indices, columns."""

import re
from html import escape
from itertools import pairwise

LETTERS = {
    name: chr(code)
    for name, code in {
        "beta": 0x3B2, "eps": 0x3B5, "lambda": 0x3BB, "Lambda": 0x39B, "nu": 0x3BD, "phi": 0x3C6,
        "pi": 0x3C0, "psi": 0x3C8, "rho": 0x3C1, "tau": 0x3C4,
    }.items()
}  # fmt: skip
WORDS = {"grad": "∇", "inf": "∞", "int": "∫", "prod": "∏", "sum": "∑"}
SIGNS = {
    "<=": "≤", ">=": "≥", "!=": "≠", "||": "∥", "->": "→", "~": "∼", "...": "…", "..": "…",
    "-": "−", "'": "′",
}  # fmt: skip
RELATION = re.compile(r" (=|~|<=|∝|proportional to) |^(minimise|max_q|max) |^update ", re.MULTILINE)
NO_EQUATION = re.compile(r"\\|--|python |^(for|def|class|with|import|from) ", re.MULTILINE)
TOKEN = re.compile(
    r"(?P<name>[A-Za-z]+0?)(?P<star>\*(?=\W|$))?"
    r"(?P<index>(?:_(?:\{[^{}]*\}|<=?\w+|[A-Za-z0-9]+\*?(?:<=?\w+)?))*)"
    r"|\^(?P<power>\([^()]*\)|\{[^{}]*\}|-?[\w]+'?)"
    r"|(?P<sign><=|>=|!=|\|\||->|\.\.\.|\.\.|[-~'])"
)


def is_equation(text: str) -> bool:
    """True if a block of a docstring holds equations, and not code or a table."""
    return bool(RELATION.search(text)) and not NO_EQUATION.search(text)


def typeset(text: str) -> str:
    """HTML of a line or of a part of a line."""
    if "`" in text:
        before, code, after = (text + "`").split("`", 2)
        return f"{typeset(before)}<code>{escape(code)}</code>{typeset(after.rstrip('`'))}"
    text = re.sub(r"\b(prop\.|proportional) to\b", "∝", text)
    parts, end = [], 0
    for match in TOKEN.finditer(text):
        parts += [escape(text[end : match.start()]), _token(match)]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def _token(match: re.Match[str]) -> str:
    if sign := match["sign"]:
        return SIGNS[sign]
    if power := match["power"]:
        inner = power[1:-1] if power[0] in "({" else power
        return f"<sup>{typeset(inner)}</sup>"
    name, indices = match["name"], re.findall(r"_(\{[^{}]*\}|[^_]+)", match["index"])
    has_hat = "hat" in indices
    indices = [index for index in indices if index != "hat"]
    if len(name) > 2 and indices and len(indices[0]) > 2 and indices[0].isalpha():
        return f"<code>{escape(match[0])}</code>"  # a name of the code, such as log_prior
    digit = "0" if len(name) > 1 and name.endswith("0") else ""
    stem = name.removesuffix("0") if digit else name
    indices = [digit, *(index.strip("{}") for index in indices)]
    sub = "".join(f"<sub>{_index(index)}</sub>" for index in indices if index)
    star = "<sup>*</sup>" if match["star"] else ""
    return f"{_stem(stem)}{chr(0x302) if has_hat else ''}{star}{sub}"


def _index(index: str) -> str:
    """HTML of an index; two small letters, as in x_kt, are two indices."""
    two = len(index) == 2 and index.isalpha() and index.islower() and index not in LETTERS
    return f"<i>{index}</i>" if two else typeset(index)


def _stem(stem: str) -> str:
    if stem in WORDS:
        return WORDS[stem]
    if stem in LETTERS:
        return f"<i>{LETTERS[stem]}</i>"
    is_variable = len(stem) == 1 and stem not in "EP"
    return f"<i>{stem}</i>" if is_variable else stem


def table(text: str) -> str:
    """HTML of lines of equations, aligned as in the text."""
    rows = ""
    for row in columns(text.split("\n")):
        cells = [re.sub(r" {2,}", '<span class="gap"></span>', typeset(cell)) for cell in row]
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f'<div class="equations"><table>{rows}</table></div>'


def columns(lines: list[str]) -> list[list[str]]:
    """Cells of the lines: two if all lines are aligned after a gap, or at the sign =; else one."""
    starts = [line for line in lines if line.strip()]
    for pattern in (r"^\S.*?\s{2,}", r"^.*?(?== )"):
        ends = [match.end() if (match := re.match(pattern, line)) else 0 for line in starts]
        if len(ends) > 1 and ends[0] and all(a == b for a, b in pairwise(ends)):
            return [[line[: ends[0]].strip(), line[ends[0] :]] for line in lines]
    return [[line] for line in lines]
