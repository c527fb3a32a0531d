"""Names of the library that `steer` puts into options are names in errors of the library."""

import ast
from pathlib import Path

from experiments.steer.wording import OPTIONS, as_options


def test_all_names_occur_in_texts_of_the_library():
    nodes = [
        node
        for folder in ("model", "guides", "inference")
        for path in sorted(Path(folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert [name for name in OPTIONS if not any(name in text for text in texts)] == []


def test_names_become_options_and_paths_stay():
    text = "num_samples = 1, `LoRA` with few `target_modules`, /num_samples/num_samples.py, LoRA"
    assert as_options(text) == (
        "--budget = 1, --guide lora with few --lora.target-modules, /num_samples/num_samples.py, "
        "LoRA"
    )
