"""Factors of the likelihood: log f(x) in nats, which beta does not divide. One kind a file."""

from model.factors.constraints import Constraint, contains, matches
from model.factors.marginal_likelihood import MarginalLikelihood
from model.factors.tilt import Tilt

__all__ = ["Constraint", "MarginalLikelihood", "Tilt", "contains", "matches"]
