"""The READMEs of the project and of its folders."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "[a-z]*", "inference/*")
READMES = [path for each in FOLDERS for path in sorted(ROOT.glob(f"{each}/README.md"))]
