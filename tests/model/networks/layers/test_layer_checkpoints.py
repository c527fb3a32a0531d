"""Layers whose activations are computed again have the same gradient, and hold less."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.modeling_layers import GradientCheckpointingLayer

from guides import FineTuned, Guide, LoRA, SoftPrompt
from inference import LeaveOneOut_ELBO, fit
from model import AlignmentModel, LanguageModel, Prompts, TokenReward
from model.networks.layers.layer_checkpoints import NoLayersError, around, checkpointed_layers
from tests.model.networks.layers.test_head import NETWORKS, PROMPTS, network
from tests.model.tiny import tiny_tokenizer

GUIDES = {
    "fine-tuned": FineTuned,
    "lora": lambda prior: LoRA(prior, rank=2),
    "soft-prompt": lambda prior: SoftPrompt(prior, num_virtual_tokens=3),
}


def language_model(name: str) -> LanguageModel:
    return LanguageModel(network(name).double(), tiny_tokenizer(), max_new_tokens=6)


def gradient(
    guide: Guide, prompts: Prompts, response: Tensor, active: bool, micro_batch: int | None = None
) -> Tensor:
    """Gradient of a sum of log-probabilities with different weights, in one row."""
    guide.zero_grad()
    with checkpointed_layers(active):
        log_prob = guide.distribution(prompts).in_micro_batches(micro_batch).log_prob(response)
        (log_prob * torch.arange(log_prob.numel()).view_as(log_prob)).sum().backward()
    return torch.cat([p.grad.flatten() for p in guide.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("family", GUIDES)
def test_gradient_is_that_of_a_pass_that_keeps_all_activations(name: str, family: str) -> None:
    prior = language_model(name)
    prompts = prior.encode(PROMPTS)
    guide = GUIDES[family](prior)
    guide.jitter(0.1, torch.Generator().manual_seed(0))
    response = prior(prompts).sample((5,))
    expected = gradient(guide, prompts, response, active=False)
    assert expected.norm() > 0.1
    assert_close(gradient(guide, prompts, response, active=True), expected, rtol=1e-12, atol=1e-12)
    divided = gradient(guide, prompts, response, active=True, micro_batch=2)
    # norms and rotations inside the networks are in float32
    assert (divided - expected).norm() < 1e-5 * expected.norm()


def test_layers_run_again_in_the_backward_pass_and_hold_less(monkeypatch) -> None:
    prior = language_model("llama")
    prompts = prior.encode(PROMPTS)
    guide, response = FineTuned(prior), prior(prompts).sample((20,))
    layer = next(m for m in guide.modules() if isinstance(m, GradientCheckpointingLayer))
    forward, runs = type(layer).forward, []

    def counted(self: nn.Module, *args, **kwargs):
        runs.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(layer), "forward", counted)

    def held(active: bool) -> tuple[int, int]:
        """Number of runs of layers, and of bytes that a pass holds for the backward pass."""
        sizes: dict[int, int] = {}
        runs.clear()

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with checkpointed_layers(active):
                total = guide.distribution(prompts).log_prob(response).sum()
            num_bytes = sum(sizes.values())
        with checkpointed_layers(active):
            total.backward()
        return len(runs), num_bytes

    num_runs, num_bytes = held(False)
    again, fewer = held(True)
    assert again == 2 * num_runs
    assert fewer < 0.5 * num_bytes


def test_fit_is_the_same_fit() -> None:
    prior = language_model("gpt2")
    prompts = prior.encode(PROMPTS)
    reward = TokenReward(lambda response, _: response[..., 0].double(), prior)
    model = AlignmentModel(prior, reward, beta=2.0)
    results = []
    for options in ({}, {"checkpoint_activations": True}):
        torch.manual_seed(0)
        guide = LoRA(prior, rank=2)
        objective = LeaveOneOut_ELBO(6)
        result = fit(
            model, guide, prompts, num_steps=4, objective=objective, progress=False, **options
        )
        results.append([record["loss"] for record in result.metrics])
    assert results[1] == pytest.approx(results[0], rel=1e-9)
    with pytest.raises(TypeError, match="checkpoint_activations"):
        fit(model, guide, prompts, num_steps=1, checkpoint_activations=1, progress=False)


def test_network_without_layers_is_refused_by_name() -> None:
    with (
        checkpointed_layers(),
        pytest.raises(NoLayersError, match="Linear has no layers"),
        around(nn.Linear(1, 1)),
    ):
        pass
    with checkpointed_layers(), torch.no_grad(), around(nn.Linear(1, 1)):
        pass  # without gradient there is nothing to hold
