"""Refusals in the words of the command line, where the library names objects of Python."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

OPTIONS = {
    "Constraint": "--constraint",
    "LoRA": "--guide lora",
    "Twisted": "--guide twisted",
    "WakePhi": "--objective wake-phi",
    "compile_decode": "--compile",
    "max_new_tokens": "--max-new-tokens",
    "num_particles": "--particles",
    "num_samples": "--budget",
    "num_virtual_tokens": "--soft-prompt.num-virtual-tokens",
    "quasi_rejection_sampling": "--sample quasi-rejection",
    "target_modules": "--lora.target-modules",
}
"""Options by names of the library in its errors: in backticks, or with an underscore."""
_NAME = re.compile(r"`\w+`|(?<![\w/.])[a-z]+_\w+(?![\w/.])")  # no part of a path


@contextmanager
def in_options() -> Iterator[None]:
    """Put the text of an exit into the words of the command line."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.code, str):
            error.code = as_options(error.code)
            error.args = (error.code,)
        raise


def as_options(text: str) -> str:
    """A text of the library in the words of the command line."""
    return _NAME.sub(lambda name: OPTIONS.get(name[0].strip("`"), name[0]), text)
