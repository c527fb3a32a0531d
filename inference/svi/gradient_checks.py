"""Checks of a step's loss and of the first gradient: a fit that would train nothing is refused."""

import torch
from torch import nn

from guides.guide import GuideRegistrationError
from inference.objectives.parts.draws import Draws
from inference.programs import Program
from inference.svi.checkpoint.state import parameters
from inference.svi.fit_objective import FitObjective, elbo_of
from model import AlignmentModel, ResponseSpace


class NothingToTrainError(ValueError):
    """No gradient reaches any parameter."""


def no_responses(space: ResponseSpace | None, draws: list[Draws]) -> str:
    """Number of rows that a guide drew and that are no responses of the prior, in words."""
    rows = [draw.values["response"] for draw in draws if "response" in draw.values]
    if space is None or not rows:
        return ""
    is_outside = torch.cat([~space.contains(each).flatten() for each in rows])
    if not is_outside.any():
        return ""
    return (
        f". {int(is_outside.sum())} of {len(is_outside)} rows that the guide drew are no responses "
        f"of the prior, which have the id {space.pad_id} alone after an end: draw from a "
        "`ResponseDistribution` with `prior.space`"
    )


def check_trains(model: Program, guide: Program, objective: FitObjective) -> None:
    """Refuse a first gradient that reaches no parameter in Pyro's store, or others of the guide.

    Parameters of the objective's own heads do not count. A gradient of the prior of an
    `AlignmentModel`, which is frozen, is refused.
    """
    registered = parameters()
    of_model = model.prior.parameters() if isinstance(model, AlignmentModel) else ()
    of_prior = {id(parameter) for parameter in of_model}
    if any(p.grad is not None and id(p) in of_prior for p in registered.values()):
        raise GuideRegistrationError(
            "the guide trains the parameters of the model's own prior, which would move the "
            "posterior: expected a guide of `guides`, or one with `copy.deepcopy(prior)`"
        )
    known = {id(parameter) for parameter in registered.values()}
    own = dict(guide.named_parameters()) if isinstance(guide, nn.Module) else {}
    stray = [name for name, p in own.items() if p.grad is not None and id(p) not in known]
    if stray:
        raise GuideRegistrationError(
            f"Pyro does not know {len(stray)} parameters of the guide that have a gradient, first "
            f"{stray[0]!r}, so that they would not train: call `pyro.module(NAME, guide)` where "
            "the guide runs, or freeze them with `requires_grad_(False)`"
        )
    heads = [head for head in vars(elbo_of(objective)).values() if isinstance(head, nn.Module)]
    of_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    if any(p.grad is not None and id(p) not in of_heads for p in registered.values()):
        return
    trainable = any(parameter.requires_grad for parameter in own.values())
    frozen = f" All {len(own)} parameters of the guide are frozen." if own and not trainable else ""
    raise NothingToTrainError(
        f"no gradient reaches any of the {len(registered)} parameters in Pyro's store, so nothing "
        f"would be trained.{frozen} Expected a guide with `pyro.param` or `pyro.module`, and "
        "parameters that require a gradient. A `LanguageModel` freezes the network that it is made "
        "of, a guide's too (`requires_grad_(True)` thaws it); `detach` and `no_grad` cut the "
        "gradient"
    )
