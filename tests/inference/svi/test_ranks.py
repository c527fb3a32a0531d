"""Several processes: the gradient, the metrics and the fit of one process, for every objective."""

import pyro
import pytest
import torch
from torch import Tensor

from inference import OBJECTIVES
from inference.programs import parameter_scope
from inference.svi.micro_batches import in_micro_batches
from model import AlignmentModel, LanguageModel, Prompts
from model.common.ranks import average_gradients
from model.prior.division import AXES, divided
from tests.inference.svi.test_micro_batches import new_guide
from tests.model.tiny import PROMPTS, tiny


def reward(prompts: Prompts, response: Tensor) -> Tensor:
    """Different for each response and each prompt."""
    length = prompts.mask.sum(1)
    return length * 0.3 * (response == 3).sum(-1) - 0.1 * response[..., 0]


def world(dtype: torch.dtype) -> tuple[LanguageModel, AlignmentModel, Prompts]:
    """A network of moderate weights without a part in float32, which GPT-2 is and Llama is not."""
    prior = tiny("gpt2", dtype, max_new_tokens=5)
    with torch.no_grad():
        for parameter in prior.network.parameters():
            parameter *= 0.5
    return prior, AlignmentModel(prior, reward, beta=0.5), prior.encode(PROMPTS)


def gradients(
    name: str, dtype: torch.dtype = torch.float64, by: str = "particles", size: int | None = None
) -> list[Tensor]:
    """Gradients of two steps of an objective, without moving the guide."""
    prior, model, prompts = world(dtype)
    entry = OBJECTIVES[name]
    prompts = prompts[: entry.max_prompts or 3]
    guide = new_guide(entry, prior, prompts)
    objective, rows = entry(num_particles=4), []
    programs = [in_micro_batches(program, size) for program in (model, guide)]
    pyro.set_rng_seed(1)
    with parameter_scope(guide), divided(by):
        for _ in range(2):
            guide.zero_grad()
            objective.loss_and_grads(*programs, prompts)
            store = dict(pyro.get_param_store().named_parameters())
            average_gradients(store)
            grads = [p.grad for p in store.values() if p.grad is not None]
            rows.append(torch.cat([grad.flatten() for grad in grads]))
    return rows


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_on_two_ranks_is_that_of_one_process(group, name):
    """On the same responses: the ranks draw the random numbers of one process."""
    double, single = (torch.float64, 1e-12), (torch.float32, 1e-6)
    for (dtype, tolerance), axes in ((double, AXES), (single, AXES[:1])):
        whole = gradients(name, dtype)
        for by in axes:
            for of_rank in group.run(gradients, name, dtype, by):
                for expected, gradient in zip(whole, of_rank, strict=True):
                    assert expected.norm() > 1e-3
                    assert (gradient - expected).norm() <= tolerance * expected.norm()
