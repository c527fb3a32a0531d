"""Contract of every registered guide. An entry of the registry without a claim here fails."""

import copy
import itertools
import math
import warnings

import pyro
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from guides import GUIDES
from guides.guide import OtherGuideError
from inference import OBJECTIVES, FusedOptimizer, ResponseObjective, fit, log_guide_at
from model import AlignmentModel, ResponseDistribution, TextReward, grammar_prior, vader_sentiment
from model.prior import batch, chunks, decode, logits
from model.prior.cached_decoder import CachedDecoder
from model.prior.compiled_step import CompiledStep
from tests.inference.objectives.uses import ONE_OF_EACH_USE

V, T, H = 10, 3, 32  # token ids, tokens of a response, width of the prior

TRAINED = {
    "fine-tuned": V * H + 32 * H + 2 * (12 * H * H + 13 * H) + 2 * H,
    "lora": 8 * 2 * (4 * H + 2 * H + 5 * H + 5 * H),
    "soft-prompt": 8 * H,
    "twisted": (H * 64 + 64) + (64 * H + H),
    "recurrent": V * 32 + 3 * 64 * (32 + 64 + 2) + V * 64 + V,
    "n-gram": (V + 1) * V,
    "mean-field": 2 * T * V,
    "tabular": 2 * (1 + 9 + 81) * V,
    "mixture": 2 * (V * H + 32 * H + 2 * (12 * H * H + 13 * H) + 2 * H) + 2,
    "tempered": 0,
    "fixed": 0,
}
"""Number of trained parameters by guide: default options, prior and prompts of the tests."""

STARTS_AT_PRIOR = {"fine-tuned", "lora", "twisted", "tabular", "fixed"}
"""q = p0 exactly before any step."""

TRAINS = sorted(name for name, number in TRAINED.items() if number)
COPIES_THE_PRIOR = {"fine-tuned", "mixture"}
"""The dtype follows the prior unless an option sets a dtype."""

FITS_ANY_VOCABULARY = {"twisted", "lora", "soft-prompt"}
"""Guides whose numbers do not depend on the dtype."""


@pytest.fixture(scope="module")
def prior():
    """At a temperature, which guide and prior must agree on. All tests share the prior."""
    prior = grammar_prior(max_new_tokens=T)
    prior.temperature = 0.8
    return prior


@pytest.fixture
def own_prior(prior):
    """Copy of the prior for a test that changes the copy."""
    return copy.deepcopy(prior)


@pytest.fixture(scope="module")
def prompts(prior):
    """Two prompts of different lengths."""
    return prior.encode(["the film was", "the"])


def build(name, prior, prompts, seed=None):
    """Guide with default options; with a seed, away from the start, which is not matched."""
    torch.manual_seed(0)
    guide = GUIDES[name](prior, prompts, **({} if seed is None else GUIDES[name].loaded_with))
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in guide.trained().values():
                parameter += 0.1 * torch.randn_like(parameter)
    return guide


@pytest.fixture(params=GUIDES)
def name(request):
    return request.param


@pytest.fixture
def guide(name, prior, prompts):
    return build(name, prior, prompts, seed=1)


def test_every_guide_has_a_claim():
    assert TRAINED.keys() == GUIDES.keys()
    assert sorted(name for name, family in GUIDES.items() if family.trains) == TRAINS


def test_only_guides_that_can_merge_have_a_merged_language_model(name, prior, prompts):
    assert GUIDES[name].can_merge == hasattr(build(name, prior, prompts), "merged")


def test_probabilities_sum_to_one(guide, prompts):
    distribution = guide.distribution(prompts)
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-10)


def test_samples_match_the_density(guide, prompts):
    """Chi-square over the responses expected at least 5 times, all others in one cell."""
    num = 3_000
    distribution = guide.distribution(prompts)
    support = distribution.enumerate_support()
    expected = distribution.log_prob(support).exp().detach() * num  # [S, N]
    place = V ** torch.arange(T)
    drawn = (distribution.sample((num,)) * place).sum(-1)  # [M, N]
    for n in range(len(prompts)):
        counts = torch.zeros(V**T).index_add_(0, drawn[:, n], torch.ones(num))[
            (support[:, n] * place).sum(-1)
        ]
        often = expected[:, n] >= 5
        observed = torch.cat([counts[often], counts[~often].sum()[None]])
        cells = torch.cat([expected[often, n], expected[~often, n].sum()[None] + 1e-9])
        assert observed.sum() == num
        assert chisquare(observed.cpu().numpy(), cells.cpu().numpy(), sum_check=False).pvalue > 1e-3


def test_gradient_reaches_all_and_only_its_parameters(name, guide, prior, prompts):
    response = guide.distribution(prompts).enumerate_support()
    log_q = log_guide_at(guide, prompts, response)
    if TRAINED[name]:
        (log_q * torch.randn_like(log_q)).sum().backward()
    for parameter_name, parameter in guide.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
    for parameter_name, parameter in guide.trained().items():
        assert parameter.grad.abs().sum() > 0, parameter_name
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_registers_its_parameters_with_pyro_and_no_others(guide, prompts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide(prompts)
    registered = dict(pyro.get_param_store().named_parameters())
    trained = {f"guide$$${name}": parameter for name, parameter in guide.trained().items()}
    assert registered.keys() == trained.keys()
    assert all(registered[name] is parameter for name, parameter in trained.items())


def test_number_of_trained_parameters(name, guide):
    assert guide.num_trained_parameters() == TRAINED[name]


def test_survives_save_and_load_bit_for_bit(name, guide, prior, prompts, tmp_path):
    guide.save_pretrained(tmp_path)
    again = build(name, prior, prompts, seed=2)
    response = prior(prompts).enumerate_support()[::7]
    before = guide.distribution(prompts).log_prob(response)
    assert not TRAINED[name] or not torch.equal(
        again.distribution(prompts).log_prob(response), before
    )
    again.load_pretrained(tmp_path)
    assert torch.equal(again.distribution(prompts).log_prob(response), before)


@pytest.mark.parametrize("name", sorted(set(TRAINS) - FITS_ANY_VOCABULARY))
def test_files_of_another_guide_are_refused(name, prior, prompts, tmp_path):
    """A guide of another size is refused before anything is written."""
    larger = grammar_prior(max_new_tokens=T, steps=1)
    larger.network.resize_token_embeddings(V + 2)
    larger.vocab_size = V + 2
    guide = build(name, prior, prompts)
    before = copy.deepcopy(guide.trained())
    build(name, larger, prompts).save_pretrained(tmp_path)
    with pytest.raises(OtherGuideError, match="is of another guide"):
        guide.load_pretrained(tmp_path)
    assert all(torch.equal(before[key], value) for key, value in guide.trained().items())


def test_prompts_of_different_lengths(guide, prompts):
    """In one batch each prompt has the same distribution as alone."""
    response = guide.distribution(prompts).enumerate_support()[::5]
    together = guide.distribution(prompts).log_prob(response)
    alone = [
        guide.distribution(prompts[[n]]).log_prob(response[:, [n]]) for n in range(len(prompts))
    ]
    assert torch.allclose(together, torch.cat(alone, 1), atol=1e-9)


def test_states_are_selected_with_all_they_remember(guide, prompts):
    """Sequences reordered and doubled half way, as resampling does, go on as they would have."""
    distribution = guide.distribution(prompts)
    decoder, rows = distribution.decoder, torch.tensor([1, 0, 1])
    ids = torch.tensor([[6, 7], [8, 9]])
    _, state = decoder.start(prompts)
    _, state = decoder.extend(state, ids[:, :1])
    logits, _ = decoder.extend(state.select(rows), ids[rows, 1:])
    expected, _ = decoder.extend(decoder.start(prompts)[1], ids)
    difference = (logits[:, -1] - expected[rows, -1]).abs().max()
    assert difference < 1e-9


def test_moves_as_a_whole(name, own_prior, prompts):
    guide = build(name, own_prior, prompts, seed=1).to("meta")
    assert all(tensor.device.type == "meta" for tensor in [*guide.parameters(), *guide.buffers()])
    assert not list(left_behind(guide))


def left_behind(module):
    """Tensors that `.to` does not move: attributes of modules, neither parameters nor buffers."""
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if not key.startswith("_") and not isinstance(value, nn.Module):
                held = (
                    value
                    if isinstance(value, list | tuple)
                    else getattr(value, "__dict__", {}).values()
                )
                if any(isinstance(tensor, torch.Tensor) for tensor in [value, *held]):
                    yield f"{path}.{key}"


@pytest.mark.parametrize("moved", [False, True], ids=["on a bfloat16 prior", "moved to bfloat16"])
def test_runs_in_bfloat16(name, own_prior, prompts, moved):
    if moved:
        guide = build(name, own_prior, prompts, seed=1).to(torch.bfloat16)
    else:
        guide = build(name, own_prior.to(torch.bfloat16), prompts, seed=1)
    if not moved and name not in COPIES_THE_PRIOR:
        # small updates would be lost
        assert all(parameter.dtype == torch.float32 for parameter in guide.trained().values())
    distribution = guide.distribution(prompts)
    response = distribution.sample((4,))
    log_prob = distribution.log_prob(response)
    assert log_prob.dtype == torch.float64
    assert log_prob.isfinite().all()
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-3)
    if TRAINED[name]:
        log_prob.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in guide.trained().values())


def test_starts_at_the_prior_if_the_family_can(name, prior, prompts):
    support = prior(prompts).enumerate_support()
    log_prior = prior(prompts).log_prob(support)
    distance = (
        (build(name, prior, prompts).distribution(prompts).log_prob(support) - log_prior)
        .abs()
        .max()
    )
    assert distance < 1e-12 if name in STARTS_AT_PRIOR else distance > 1e-2


def test_is_never_in_training_mode(guide):
    guide.train()
    assert not guide.training
    assert not any(isinstance(part, nn.Dropout) and part.training for part in guide.modules())


USES = {
    "leave-one-out": "draws and scores",
    "analytic-kl": "logits of the next token",
    "reward-to-go-value": "hidden states",
    "contrastive-twist": "a twist",
    "gauss-newton": "the gradient of each response",
    "trajectory-balance": "bolder draws, and several steps on a batch",
    "forward-kl-adaptive": "earlier parameters, put in place for a while",
}
"""Uses of a guide by objective."""


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        *(("fine-tuned", objective) for objective in dict.fromkeys([*ONE_OF_EACH_USE, *USES])),
        *itertools.product(sorted(set(TRAINS) - {"fine-tuned"}), USES),
    ],
)
def test_trains_by_every_kind_of_objective(name, objective, prior, prompts):
    """Three steps: finite numbers, parameters that change, a prior constant bit for bit."""
    prompts = prompts[: OBJECTIVES[objective].max_prompts]
    guide = build(name, prior, prompts, seed=1)
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    response = prior(prompts).sample((5,))
    log_prior = prior(prompts).log_prob(response)
    before = copy.deepcopy(guide.trained())

    def train():
        options = {"objective": OBJECTIVES[objective](num_particles=16), "progress": False}
        options |= {"optimizer": FusedOptimizer(options={"lr": 1e-2})}
        return fit(model, guide, prompts, num_steps=3, **options)

    if not OBJECTIVES[objective].trains(GUIDES[name]):
        with pytest.raises(TypeError, match=r"has no `hidden`|has no twist"):
            train()
        return
    result = train()
    assert result.stopped_early is None
    if isinstance(OBJECTIVES[objective](), ResponseObjective):
        assert math.isfinite(result.metrics[-1]["elbo"])
    assert any(not torch.equal(before[key], value) for key, value in guide.trained().items())
    assert all(value.isfinite().all() for value in guide.trained().values())
    assert torch.equal(prior(prompts).log_prob(response), log_prior)
    assert isinstance(guide.distribution(prompts), ResponseDistribution)


@pytest.fixture(params=["draws", "suffixes"])
def drawing(request):
    """A function that draws from a distribution: responses, or their last two tokens."""

    def draws(distribution):
        return distribution.sample((20,))

    def suffixes(distribution):
        value = distribution.sample((20,))
        return distribution.sample_suffix(value, torch.arange(20)[:, None] % (T + 1))

    return {"draws": draws, "suffixes": suffixes}[request.param]


def test_draws_depend_on_no_finished_response_chunk_or_interval_of_checks(
    guide, prompts, drawing, monkeypatch
):
    """Same random numbers: the seed alone decides."""
    distribution, draws = guide.distribution(prompts), []
    chunks = distribution.in_micro_batches(1)  # four responses at a time
    for drop, interval, part in (
        (-1.0, 1, distribution),  # finished responses stay to the end
        (decode.DROP, 1, distribution),
        (1.0, 1, chunks),
        (1.0, 2, chunks),  # ends are seen at every second token, as they are on a GPU
        (decode.DROP, T + 1, distribution),  # ends are never seen
    ):
        monkeypatch.setattr(decode, "DROP", drop)
        monkeypatch.setattr(decode, "INTERVAL", interval)
        monkeypatch.setattr(decode, "is_asynchronous", lambda device: True)
        torch.manual_seed(0)
        draws.append(drawing(part))
        draws.append(torch.rand(3))  # the generator has moved as far
    assert all(torch.equal(draws[0], values) for values in draws[2::2])
    assert all(torch.equal(draws[1], numbers) for numbers in draws[3::2])


def test_response_spaces_of_guide_and_prior_are_compared_without_a_read(
    name, prior, prompts, monkeypatch
):
    """On a GPU each read waits for the device, and a step compares spaces often."""
    guide = build(name, prior, prompts)
    spaces = [part.space for part in guide.modules() if isinstance(part, CachedDecoder)]
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: pytest.fail("a read"))
    assert all(prior.space.difference(space) is None for space in spaces)


READS_WITH_THE_PRIOR = ["fine-tuned", "lora", "soft-prompt", "twisted", "tempered", "fixed"]


@pytest.mark.parametrize("name", READS_WITH_THE_PRIOR, indirect=True)
def test_draws_in_buffers_of_fixed_shape_are_those_of_a_plain_decode(
    name, own_prior, prompts, drawing, monkeypatch
):
    """Same random numbers. Weights that change in place are read by the next draw."""
    guide = build(name, own_prior, prompts, seed=1)
    monkeypatch.setattr(CompiledStep, "compile", lambda *_: None)
    for _ in range(2):
        draws = []
        for is_compiled in (False, True):
            for part in guide.modules():
                if isinstance(part, CachedDecoder):
                    part.compile_decode = is_compiled
            torch.manual_seed(0)
            draws.append((drawing(guide.distribution(prompts)), torch.rand(3)))
        assert all(torch.equal(*pair) for pair in zip(*draws, strict=True))
        guide.jitter(0.3)


@pytest.mark.parametrize("name", TRAINS, indirect=True)
def test_scores_chunk_by_chunk_are_those_of_one_pass(name, guide, prompts, monkeypatch):
    """Logits of one state at a time, micro-batches of one response, and groups of one prompt."""
    response = guide.distribution(prompts).sample((20,))
    results = []
    for chunk, micro_batch in ((logits.CHUNK, None), (1, None), (1, 1)):
        for module in (logits, batch):
            monkeypatch.setattr(module, "CHUNK", chunk)
        distribution = guide.distribution(prompts).in_micro_batches(micro_batch)
        log_prob = distribution.log_prob(response)
        weight = torch.linspace(-1.0, 1.0, log_prob.numel()).view(log_prob.shape)
        parameters = list(guide.trained().values())
        gradient = torch.autograd.grad((weight * log_prob).sum(), parameters)
        results.append((log_prob.detach(), torch.cat([part.flatten() for part in gradient])))
    for log_prob, gradient in results[1:]:
        assert torch.allclose(log_prob, results[0][0], rtol=0, atol=1e-12)
        assert torch.allclose(gradient, results[0][1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", TRAINS, indirect=True)
def test_scores_without_gradient_are_those_with(name, guide, prompts, monkeypatch):
    response = guide.distribution(prompts).sample((20,))
    expected = guide.distribution(prompts).log_prob(response).detach()
    monkeypatch.setattr(chunks, "MOST_LOGITS", 1)
    monkeypatch.setattr(CachedDecoder, "room", 1)
    with torch.no_grad():
        assert torch.allclose(guide.distribution(prompts).log_prob(response), expected)


@pytest.mark.parametrize("name", ["fine-tuned", "lora", "twisted", "soft-prompt", "mixture"])
def test_draws_in_half_precision_are_scored_by_one_pass_over_the_response(name, own_prior, prompts):
    """A decode rounds each token by itself, by more than guide and prior may differ."""
    distribution = GUIDES[name](own_prior.to(torch.bfloat16), prompts).distribution(prompts)
    response, log_prob = distribution.sample_and_log_prob((20,))
    assert torch.equal(log_prob, distribution.log_prob(response).double())
