"""The words of the library that `steer` puts into options are words of its errors as they are."""

import ast
from pathlib import Path

from experiments.steer.wording import OPTIONS


def test_all_words_occur_in_texts_of_the_library() -> None:
    nodes = [
        node
        for folder in ("model", "guides", "inference")
        for path in sorted(Path(folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert [words for words in OPTIONS if not any(words in text for text in texts)] == []
