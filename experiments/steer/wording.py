"""Refusals in the words of the command line, where the library names arguments of Python."""

from collections.abc import Iterator
from contextlib import contextmanager

OPTIONS = {
    "pass `log_bound`, in nats, or use `quasi_rejection_sampling`": "use --sample quasi-rejection",
    "pass a larger `log_bound`, correct": "correct",
    "`quasi_rejection_sampling`": "--sample quasi-rejection",
    "Draw more, lower `log_bound`,": "Draw more (--budget),",
    ", use a guide, or pass `log_bound`": " (--budget), or use a guide (--proposal)",
    ", or pass `log_bound`": " (--budget)",
    "`Constraint`": "--constraint",
    "lower `capacity`, or train": "train",
    "`LoRA` with few `target_modules`": "--guide lora with few --lora.target-modules",
    "`LoRA`": "--guide lora",
    "`Twisted`": "--guide twisted",
    "`WakePhi` descends": "--objective wake-phi descends",
    "leave compile_decode out": "leave --compile out",
    "max_new_tokens": "--max-new-tokens",
    "num_particles": "--particles",
    "num_samples": "--budget",
    "num_virtual_tokens": "--soft-prompt.num-virtual-tokens",
    "target_modules has": "--lora.target-modules has",
}
"""Words of the command line, by words in errors of the library. Longer words come first."""


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
    for words, option in OPTIONS.items():
        text = text.replace(words, option)
    return text
