"""Laws that are none: log-probabilities of NaN, or of a table of all responses that does not sum to 1.

A guide whose parameters became NaN is an error that says so, and never a number.
"""

from __future__ import annotations

from torch import Tensor, nn

from inference.estimate import NotANumberError
from model.common.checks import first_index

NORMALISED = 0.05
"""Largest distance to 1 of a sum of probabilities: bfloat16 rounds the same prefix differently in another batch."""


class NotNormalisedError(ValueError):
    """The probabilities of all responses do not sum to 1: what they are taken for a law of, or over, is another."""


def check_log_prob(log_prob: Tensor, program: object, role: str) -> Tensor:
    """A program's log-probabilities of responses, if none of them is NaN or +inf.

    Args:
        log_prob: any shape, nats.
        program: whose they are.
        role: what the program is, for the error: "guide".

    Raises:
        NotANumberError: with the name of the program, and of its parameters that are NaN or infinite.
    """
    odd = log_prob.isnan() | log_prob.isposinf()
    if (where := first_index(odd)) is not None:
        raise NotANumberError(
            f"the {role} {name_of(program)} has log-probability {log_prob[where].item()} at index {where}, and no number at "
            f"{int(odd.sum())} of {odd.numel()} responses: {_reason(program)}"
        )
    return log_prob


def check_law(log_prob: Tensor, name: str) -> Tensor:
    """log-probabilities of all responses `[S, N]` in float64, if those of each prompt sum to 1.

    Args:
        log_prob: `[S, N]`, nats.
        name: of the law, for the error.

    Raises:
        NotNormalisedError: if they sum to another number; with NaN among them they sum to NaN.
    """
    log_prob = log_prob.double()
    for prompt, total in enumerate(log_prob.exp().sum(0).tolist()):
        if not abs(total - 1) <= NORMALISED:
            raise NotNormalisedError(
                f"the probabilities of {name} over all {len(log_prob)} responses to prompt {prompt} sum to {total:.6g}, "
                "expected 1: they are NaN, or of another set of responses (vocabulary, end ids, length), or of no law"
            )
    return log_prob


def name_of(program: object) -> str:
    """Name of a model or a guide, for errors."""
    return getattr(program, "__qualname__", type(program).__name__)


def _reason(program: object) -> str:
    parameters = program.named_parameters() if isinstance(program, nn.Module) else ()
    odd = [name for name, parameter in parameters if not bool(parameter.isfinite().all())]
    if odd:
        return f"{len(odd)} of its parameters are NaN or infinite, the first of them {odd[0]}. Go back to the last good ones"
    return "its parameters are NaN, or its network overflows in a half-precision type: try float32"
