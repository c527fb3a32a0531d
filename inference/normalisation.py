"""Refusal of log probabilities that are NaN, or that do not sum to 1 over all responses."""

from torch import Tensor, nn

from inference.estimate import NotANumberError
from model.common.checks import first_index

TOLERANCE = 0.05
"""Largest distance of a sum of probabilities to 1. bfloat16 rounds a prefix differently in another
batch."""


class NotNormalisedError(ValueError):
    """The probabilities of all responses do not sum to 1."""


def check_log_prob(log_prob: Tensor, program: object, role: str) -> Tensor:
    """Log probabilities of responses under a program, unchanged.

    Raises:
        NotANumberError: if one is NaN or +inf, with the names of the program and of a parameter
            that is NaN or infinite.
    """
    bad = log_prob.isnan() | log_prob.isposinf()
    if (where := first_index(bad)) is not None:
        raise NotANumberError(
            f"the {role} {name_of(program)} has log-probability {log_prob[where].item()} at index "
            f"{where}, and no number at {int(bad.sum())} of {bad.numel()} responses: "
            f"{_reason(program)}"
        )
    return log_prob


def check_normalised(log_prob: Tensor, name: str) -> Tensor:
    """Log probabilities of all responses, `[S, N]`, nats, in float64.

    Raises:
        NotNormalisedError: if the probabilities of a prompt do not sum to 1, or are NaN.
    """
    log_prob = log_prob.double()
    for prompt, total in enumerate(log_prob.exp().sum(0).tolist()):
        if not abs(total - 1) <= TOLERANCE:
            raise NotNormalisedError(
                f"the probabilities of {name} over all {len(log_prob)} responses to prompt "
                f"{prompt} sum to {total:.6g}, expected 1: they are NaN, or of another set of "
                "responses (vocabulary, end ids, length), or of no distribution"
            )
    return log_prob


def name_of(program: object) -> str:
    """Name of a model or a guide, for errors."""
    return getattr(program, "__qualname__", type(program).__name__)


def _reason(program: object) -> str:
    parameters = program.named_parameters() if isinstance(program, nn.Module) else ()
    bad = [name for name, parameter in parameters if not bool(parameter.isfinite().all())]
    if bad:
        return (
            f"{len(bad)} of its parameters are NaN or infinite, the first of them {bad[0]}. "
            "Go back to the last good ones"
        )
    return "its parameters are NaN, or its network overflows in a half-precision type: try float32"
