"""Start-up: slow modules of other packages are imported where they are used, not before."""

import subprocess
import sys

import pytest

SLOW = [
    "arviz_stats",
    "matplotlib",
    "peft",
    "scipy.optimize",
    "scipy.stats",
    "torch._dynamo",
    "torch.distributed.tensor",
    "transformers.modeling_utils",
    "transformers.models",
]
HELP = """
import runpy
sys.argv = ["steer", "--help"]
try:
    runpy.run_module("experiments.steer", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
"""


@pytest.mark.parametrize("statement", ["import model, guides, inference", HELP])
def test_no_slow_module_is_imported_at_the_start(statement):
    code = f"import sys\n{statement}\nprint('imported:', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    modules = output.stdout.splitlines()[-1].split()
    assert "torch" in modules
    assert sorted(set(SLOW) & set(modules)) == []
