"""The examples in the docstrings of the objectives run."""

import pyro
import torch

from inference.objectives import LeaveOneOut_ELBO, WakePhi
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from tests.guides.test_examples import example
from tests.inference.objectives.table import TWO, Table, Target, gradient


def test_new_objective_of_the_docstring_has_the_gradient_of_wake_phi():
    names = {"ResponseObjective": ResponseObjective, "Losses": Losses}
    exec(example(ResponseObjective), names)
    model, guide = Target(), Table(1)
    response = guide.distribution(TWO).sample((5,))
    _, grad = gradient(names["ForwardKL"](5), model, guide, TWO, response)
    _, expected = gradient(WakePhi(5), model, guide, TWO, response)
    assert torch.allclose(grad, expected)


def test_leave_one_out_takes_a_step_of_plain_svi():
    guide = Table(1)
    names = {"pyro": pyro, "model": Target(), "guide": guide, "prompts": TWO}
    names |= {"LeaveOneOut_ELBO": LeaveOneOut_ELBO, "optimizer": pyro.optim.Adam({"lr": 0.1})}
    exec("import pyro.infer\n" + example(LeaveOneOut_ELBO), names)
    assert names["loss"] < 50
    assert not torch.equal(guide.first, Table(1).first)
