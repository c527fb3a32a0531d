"""Gauss-Newton: its rows, its step, its memory, and the posterior as its fixed point."""

import itertools

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from guides import Fixed, LoRA, NGram, Twisted
from inference import Enumeration, LeaveOneOut_ELBO, fit, response_distribution
from inference.objectives.gauss_newton import GaussNewton
from inference.objectives.parts.response_gradients import response_gradients
from inference.svi.optimizer.trust_region import TrustRegion, WholeSteps
from model import AlignmentModel, LanguageModel
from tests.inference.conftest import killed_and_resumed, parameters_of, quiet
from tests.inference.objectives.table import ONE, TWO, Drawn, Table, Target, gradient, reward
from tests.model.tiny import SPECIAL, WORDS, tiny, tiny_tokenizer


def moved(guide):
    """The guide away from its start, where half of the gradients of adapters are 0."""
    generator = torch.Generator().manual_seed(1)
    for parameter in guide.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.1 * noise.to(parameter))
    return guide


def trained(guide):
    return {name: p for name, p in guide.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("family", "temperature"), [("gpt2", 1.0), ("llama", 0.7)])
@pytest.mark.parametrize("make", [LoRA, NGram])
def test_rows_are_the_gradients_of_each_response(family, temperature, make):
    """Prompts of two lengths, and responses of several."""
    prior = tiny(family)
    prior.temperature = temperature
    prompts = prior.encode(["a", "a b c"])
    guide = moved(make(prior))
    distribution = response_distribution(guide, prompts)
    response = distribution.sample((5,))
    log_guide, rows = response_gradients(distribution, response, trained(guide))
    expected = distribution.log_prob(response)
    assert torch.allclose(log_guide.double(), expected.detach().double(), atol=1e-5)
    for k in range(5):
        for n in range(2):
            parts = torch.autograd.grad(
                expected[k, n], list(trained(guide).values()), retain_graph=True, allow_unused=True
            )
            zeros = [torch.zeros_like(p) for p in trained(guide).values()]
            parts = [z if part is None else part for z, part in zip(zeros, parts, strict=True)]
            row = torch.cat([part.flatten() for part in parts])
            assert row.abs().max() > 0
            assert torch.allclose(rows[k, n], row, atol=1e-4 * row.abs().max().item() + 1e-5)


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rows_of_a_twist_are_the_gradients_of_each_response(top_k, temperature, monkeypatch):
    """A chunk of two responses at a time."""
    prior = tiny("llama")
    prior.temperature = temperature
    prompts = prior.encode(["a", "a b c"])
    guide = moved(Twisted(prior, hidden_size=5, top_k=top_k))
    distribution = response_distribution(guide, prompts)
    response = distribution.sample((5,))
    chunk = 2 * response.shape[-1] * prior.vocab_size
    monkeypatch.setattr("inference.objectives.parts.response_gradients.CHUNK", chunk)
    log_guide, rows = response_gradients(distribution, response, trained(guide))
    expected = distribution.log_prob(response)
    assert torch.allclose(log_guide, expected.detach(), atol=1e-9)
    for k, n in itertools.product(range(5), range(2)):
        parts = torch.autograd.grad(
            expected[k, n], list(trained(guide).values()), retain_graph=True
        )
        row = torch.cat([part.flatten() for part in parts])
        assert row.abs().max() > 0.01
        assert torch.allclose(rows[k, n], row, atol=1e-9)


def test_windows_of_attention_are_those_of_the_network():
    """Prompts longer than the window, which a mask of all earlier tokens would lose."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    window = {"sliding_window": 2, "initializer_range": 0.3}
    config = MistralConfig(**sizes, **heads, **window, **SPECIAL)
    prior = LanguageModel(MistralForCausalLM(config).double(), tiny_tokenizer(), max_new_tokens=3)
    prompts, guide = prior.encode(["a b c a b"]), moved(LoRA(prior))
    distribution = response_distribution(guide, prompts)
    response = distribution.sample((4,))
    log_guide, _ = response_gradients(distribution, response, trained(guide))
    assert torch.allclose(log_guide, distribution.log_prob(response).detach(), atol=1e-9)


def test_rows_in_half_precision_add_up_to_the_gradient_of_the_sum():
    prior = tiny("llama", torch.bfloat16)
    prompts, guide = prior.encode(["a", "a b c"]), moved(LoRA(prior))
    distribution = response_distribution(guide, prompts)
    response = distribution.sample((5,))
    _, rows = response_gradients(distribution, response, trained(guide))
    parts = torch.autograd.grad(
        distribution.log_prob(response).sum(), list(trained(guide).values())
    )
    expected = torch.cat([part.flatten() for part in parts])
    assert (rows.sum((0, 1)) - expected).norm() < 0.03 * expected.norm()


def steps(objective, *batches):
    """Step of the objective, `[D]`, after batches of responses drawn by guides of other seeds."""
    model, guide = Target(), Table(1)
    for seed, (prompts, response) in enumerate(batches, start=1):
        guide.load_state_dict(Table(seed).state_dict())
        _, grad = gradient(objective, model, guide, prompts, response)
    return -grad


def drawn(prompts, seed, num=6):
    torch.manual_seed(seed)
    return prompts, Table(seed).distribution(prompts).sample((num,))


def test_step_solves_the_least_squares_over_parameters_and_constants():
    """Two batches of two prompts, solved by `lstsq` with the constants as further unknowns."""
    objective = GaussNewton(6, ridge=0.2, power=0.7)
    batches = [drawn(TWO, 1), drawn(TWO, 2)]
    actual = steps(objective, *batches)
    rows, residuals, weights, prompt = [], [], [], []
    points = [parameters_of(Table(seed)) for seed in (1, 2)]
    for seed, (prompts, response) in enumerate(batches, start=1):
        guide = Table(seed)
        distribution = response_distribution(guide, prompts)
        log_guide, jacobian = response_gradients(distribution, response, trained(guide))
        now = log_guide + jacobian @ (points[1] - points[seed - 1])
        joint = objective.score(Target(), prompts, response).log_joint
        rows.append(jacobian.flatten(0, 1))
        residuals.append((joint - now + jacobian @ (points[1] - points[0])).flatten())
        weights.append((0.7 * (now - log_guide)).clamp(max=0).exp().flatten())
        prompt += [0, 1] * len(response)
    matrix, target = torch.cat(rows), torch.cat(residuals)
    root = torch.cat(weights).sqrt()[:, None]
    ridge = 0.2 * rows[-1].square().sum(1).mean()
    one_hot = torch.nn.functional.one_hot(torch.tensor(prompt)).double()
    num = matrix.shape[1]
    above = torch.cat([matrix, one_hot], 1) * root
    below = torch.cat([ridge.sqrt() * torch.eye(num), torch.zeros(num, 2)], 1).double()
    right = torch.cat([target * root[:, 0], torch.zeros(num, dtype=torch.float64)])
    system = torch.cat([above, below]).cpu(), right[:, None].cpu()
    solution = torch.linalg.lstsq(*system, driver="gelsd").solution.to(right.device)
    expected = solution[:num, 0] + points[0] - points[1]
    assert expected.abs().max() > 0.1
    assert torch.allclose(actual, expected, atol=1e-8)


def test_a_ridge_below_rounding_still_gives_a_step():
    """Repeated responses make the products singular, and rounding would make them indefinite."""
    prompts, response = drawn(TWO, 1, num=8)
    response = torch.cat([response] * 4)
    _, grad = gradient(GaussNewton(32, ridge=1e-30), Target(), Table(1), prompts, response)
    assert grad.isfinite().all()
    assert grad.abs().max() > 0.1


def test_a_constant_in_the_target_of_a_prompt_changes_no_step():
    def shifted(prompts, response):
        shift = prompts.ids[:, -1].double().square()
        return Target().reward(prompts, response) + shift

    _, response = drawn(TWO, 1)
    plain = gradient(GaussNewton(6), Target(), Table(1), TWO, response)[1]
    other = gradient(GaussNewton(6), Target(shifted), Table(1), TWO, response)[1]
    assert torch.allclose(plain, other, atol=1e-10)


def test_a_memory_that_drops_the_oldest_reaches_the_posterior():
    """The least probable response has 0.02: a rare response waits for its first draw."""
    model, guide = Target(lambda *args: 0.2 * reward(*args)), Table(1)
    for parameter in model.prior.parameters():
        parameter.data.mul_(0.5)
    truth, objective = Enumeration(model, TWO), GaussNewton(16, capacity=100)
    quiet(model, guide, TWO, 100, objective=objective)
    assert len(objective.memory.product) == 128  # batches of 16 responses to two prompts
    assert truth.kl_guide_posterior(guide).max() < 1e-6


@pytest.mark.parametrize("capacity", [1, 20])
def test_resume_is_bit_for_bit(capacity, tmp_path):
    """One prompt in a step, and a memory that forgets: with capacity 1 the other prompt whole."""

    def run(folder, **options):
        guide = Table(1)
        objective = GaussNewton(4, capacity=capacity)
        quiet(
            Target(),
            guide,
            TWO,
            9,
            prompts_per_step=1,
            objective=objective,
            checkpoint_folder=folder,
            **options,
        )
        return parameters_of(guide)

    whole = run(tmp_path / "whole")
    resumed = killed_and_resumed(lambda **options: run(tmp_path / "killed", **options), 5)
    assert whole.isfinite().all()
    assert torch.equal(whole, resumed)


def test_default_optimizer_takes_whole_steps():
    for objective, kind in ((GaussNewton(4), WholeSteps), (LeaveOneOut_ELBO(4), TrustRegion)):
        options = {"objective": objective, "step_kl": 0.5, "progress": False}
        assert type(fit(Target(), Table(1), TWO, num_steps=1, **options).state.optimizer) is kind


def test_a_long_step_is_shortened_and_a_short_one_is_taken_whole():
    """A limit far above the step leaves the guide where the least squares say."""
    _, response = drawn(TWO, 1)
    expected = -gradient(GaussNewton(6), Target(), Table(1), TWO, response)[1]
    sizes = []
    for step_kl in (1e4, 1e-3):
        guide = Table(1)
        start = parameters_of(guide)
        options = {"objective": GaussNewton(6), "step_kl": step_kl, "keep_best": False}
        result = quiet(Target(), Drawn(guide, response), TWO, 1, **options)
        step = parameters_of(guide) - start
        sizes.append(result.metrics[-1]["step_size"])
        share = (step @ expected) / expected.square().sum()
        assert (share > 1 - 1e-9) == (step_kl == 1e4)
        assert torch.allclose(step, share * expected, atol=1e-8)
    assert sizes[0] > 0.01
    assert sizes[1] <= 1e-3 * (1 + 1e-9)


def test_gradients_beyond_the_memory_are_refused():
    with pytest.raises(ValueError, match=r"train fewer parameters.* lower `capacity`"):
        gradient(GaussNewton(4, capacity=10**9), Target(), Table(1), *drawn(ONE, 1))


def test_steps_towards_a_rare_large_reward_stay_near_their_limit():
    """A whole step changes log q by far more than a square predicts for the shortened step."""
    prior = tiny("llama", torch.float32)
    prompts = prior.encode(["a b"])
    plain = Enumeration(AlignmentModel(prior, _no_reward, beta=1.0), prompts)
    rare = plain.support[(plain.log_prior[:, 0].exp() - 0.03).abs().argmin(), 0]

    def reward(_, response):
        return 30.0 * (response == rare).all(-1).double()

    truth = Enumeration(AlignmentModel(prior, reward, beta=1.0), prompts)
    guide = LoRA(prior)
    log_q, sizes = [truth.log_guide(guide)], []

    def record(*_):
        log_q.append(truth.log_guide(guide))
        old, new = log_q[-2:]
        sizes.append(0.5 * (old.exp() * (new - old).square()).sum().item())

    model = AlignmentModel(prior, reward, beta=1.0)
    fit(model, guide, prompts, num_steps=12, objective=GaussNewton(32), seed=1, on_step=record)
    assert max(sizes) < 1.0  # of 32 draws; 0.2 is the limit
    start = truth.kl_guide_posterior(Fixed(prior))
    assert truth.kl_guide_posterior(guide) < 0.5 * start


def _no_reward(_, response):
    return torch.zeros(response.shape[:-1])
