"""The response distribution: normalised, independent of batch and padding, sampled as scored."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from model import LanguageModel, Prompts, ResponseDistribution
from model.prior import cached_decoder
from model.prior.logits import sample_token
from tests.model.tiny import NETWORKS, PROMPTS, plain_log_prob, tiny

CASES = {
    "pad is the end": {"end_ids": [0], "pad_id": 0},
    "pad is an id of its own": {"end_ids": [0], "pad_id": 1},
    "pad is a word": {"end_ids": [0], "pad_id": 3},
    "several ends": {"end_ids": [0, 4], "pad_id": 4},
    "several ends, pad is a word": {"end_ids": [4, 0], "pad_id": 2},
    "cold": {"temperature": 0.5},
    "hot, pad is a word": {"temperature": 3.0, "pad_id": 2},
    "cut off after one token": {"max_new_tokens": 1, "pad_id": 3},
}
STORY_PROMPTS = ["Once upon a time, there was a little girl named Lily. She", "The dog", ""]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CASES)
def language_model(request: pytest.FixtureRequest, network: str) -> LanguageModel:
    return tiny(network, **CASES[request.param])


@pytest.fixture
def distribution(language_model: LanguageModel) -> ResponseDistribution:
    return language_model(language_model.encode(PROMPTS))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def stories(stories_folder: Path, dtype: torch.dtype) -> LanguageModel:
    return LanguageModel.from_pretrained(
        stories_folder, max_new_tokens=12, dtype=dtype, device="cpu"
    )


def alone(prompts: Prompts) -> list[Tensor]:
    """The token ids of each prompt without padding."""
    return [ids[mask] for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]


# Normalised


@pytest.mark.parametrize("batch_shape", [(3,), (2, 3)], ids=["one particle", "K particles"])
def test_probabilities_sum_to_one(
    distribution: ResponseDistribution, batch_shape: tuple[int, ...]
) -> None:
    distribution = distribution.expand(batch_shape)
    total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0)
    assert_close(total, torch.ones(batch_shape, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_support_is_every_row_of_positive_probability(language_model: LanguageModel) -> None:
    distribution = language_model(language_model.encode(["a"]))
    rows = torch.cartesian_prod(*[torch.arange(5)] * language_model.max_new_tokens).view(
        -1, language_model.max_new_tokens
    )
    possible = rows[distribution.log_prob(rows[:, None])[:, 0] > -torch.inf]
    assert sorted(distribution.enumerate_support()[:, 0].tolist()) == possible.tolist()


def test_the_support_broadcasts_over_the_batch() -> None:
    language_model = tiny()
    distribution = language_model(language_model.encode(PROMPTS))
    wide, narrow = distribution.enumerate_support(), distribution.enumerate_support(expand=False)
    assert wide.shape == (85, 3, 3)
    assert narrow.shape == (85, 1, 3)
    assert_close(distribution.log_prob(narrow), distribution.log_prob(wide))


# Scoring


def test_log_prob_is_that_of_a_plain_pass_over_each_sequence_alone(
    language_model: LanguageModel,
) -> None:
    distribution = language_model(language_model.encode(PROMPTS))
    value = distribution.enumerate_support()[::5]
    prompts = alone(distribution.prompts)
    expected = [
        [plain_log_prob(language_model, *pair) for pair in zip(prompts, row, strict=True)]
        for row in value
    ]
    assert_close(
        distribution.log_prob(value),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )


def test_per_token_values_sum_to_log_prob_and_are_zero_at_padding(
    distribution: ResponseDistribution,
) -> None:
    value = distribution.enumerate_support()
    per_token, padding = distribution.log_prob_per_token(value), ~distribution.space.is_token(value)
    assert_close(per_token.sum(-1), distribution.log_prob(value), rtol=0, atol=1e-12)
    assert (per_token[padding] == 0).all()
    assert (per_token[~padding] < 0).all()


def test_next_token_logits_give_the_per_token_values_and_are_zero_at_padding(
    distribution: ResponseDistribution,
) -> None:
    value = distribution.enumerate_support()
    logits, is_token = distribution.next_token_logits(value), distribution.space.is_token(value)
    picked = logits.log_softmax(-1).gather(-1, value[..., None])[..., 0]
    assert logits.shape == (*value.shape, 5)
    assert_close(
        picked[is_token], distribution.log_prob_per_token(value)[is_token], rtol=0, atol=1e-12
    )
    assert (logits[~is_token] == 0).all()


@pytest.mark.parametrize(
    "value", [[[0, 5, 0]], [[2, -1, 2]], [[2, 3]]], ids=["id too large", "negative id", "too short"]
)
def test_a_value_that_is_no_response_is_refused(value: list[list[int]]) -> None:
    language_model = tiny()
    with pytest.raises(ValueError, match=r"within the support|must match event_shape"):
        language_model(language_model.encode(["a"])).log_prob(torch.tensor(value))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_of_log_prob_are_those_of_a_plain_pass(network: str, temperature: float) -> None:
    language_model = tiny(network, temperature=temperature)
    distribution = language_model(language_model.encode(PROMPTS))
    value, prompts = distribution.sample((2,)), alone(distribution.prompts)
    tolerance = {"gpt2": 1e-10, "llama": 1e-5}[
        network
    ]  # Llama's norm computes in float32 whatever the dtype
    assert not distribution.log_prob(value).requires_grad
    parameters = list(language_model.network.requires_grad_().parameters())
    plain = [
        plain_log_prob(language_model, *pair)
        for row in value
        for pair in zip(prompts, row, strict=True)
    ]
    expected = torch.autograd.grad(sum(plain), parameters)
    assert_close(
        torch.autograd.grad(distribution.log_prob(value).sum(), parameters),
        expected,
        rtol=0,
        atol=tolerance,
    )
    per_token = (
        distribution.next_token_logits(value).log_softmax(-1).gather(-1, value[..., None])[..., 0]
    )
    is_token = language_model.space.is_token(value)
    assert_close(
        torch.autograd.grad(per_token[is_token].sum(), parameters), expected, rtol=0, atol=tolerance
    )


# Blind to batch and padding

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def per_token_alone(language_model: LanguageModel, prompts: Prompts, value: Tensor) -> Tensor:
    """Samples `[K, N, T]`, each prompt in a separate batch without padding."""
    parts = [
        language_model(prompts[[n]]).log_prob_per_token(value[:, [n]]) for n in range(len(prompts))
    ]
    return torch.cat(parts, 1)


def test_log_prob_does_not_depend_on_the_rest_of_the_batch(
    network: str, dtype: torch.dtype
) -> None:
    language_model = tiny(network, dtype, max_new_tokens=6)
    prompts = language_model.encode(PROMPTS)
    value = language_model(prompts).sample((8,))
    expected = per_token_alone(language_model, prompts, value).sum(-1, dtype=torch.float64)
    tolerance = language_model.max_new_tokens * TOLERANCE[dtype]  # a sum over so many tokens
    assert_close(language_model(prompts).log_prob(value), expected, rtol=0, atol=tolerance)


def test_log_prob_does_not_depend_on_the_amount_or_the_ids_of_padding(
    network: str, dtype: torch.dtype
) -> None:
    language_model = tiny(network, dtype)
    prompts = language_model.encode(PROMPTS)
    value = language_model(prompts).sample((8,))
    ids = torch.where(prompts.mask, prompts.ids, torch.randint(5, prompts.ids.shape))
    ids = torch.cat([torch.randint(5, (3, 4)), ids], 1)
    mask = torch.cat([torch.zeros(3, 4, dtype=torch.bool), prompts.mask], 1)
    padded = language_model(Prompts(prompts.texts, ids, mask)).log_prob(value)
    tolerance = language_model.max_new_tokens * TOLERANCE[dtype]
    assert_close(padded, language_model(prompts).log_prob(value), rtol=0, atol=tolerance)


# Sampling


def test_a_draw_comes_with_its_log_prob(language_model: LanguageModel) -> None:
    distribution = language_model(language_model.encode(PROMPTS))
    value, log_prob = distribution.sample_and_log_prob((20,))
    assert log_prob.shape == (20, 3)
    assert_close(log_prob, distribution.log_prob(value), rtol=0, atol=1e-10)


def excess(counts: Counter, prob: dict[Any, float]) -> float:
    """Pearson's chi-square of `counts`, in standard deviations above the mean.

    Cells expected less than 5 times count as one cell.
    """
    total = counts.total()
    common = {cell: p for cell, p in prob.items() if p * total >= 5}
    cells = [(counts[cell], p * total) for cell, p in common.items()]
    cells.append((total - sum(n for n, _ in cells), total * (1 - sum(common.values()))))
    statistic = sum((n - expected) ** 2 / max(expected, 1) for n, expected in cells)
    return (statistic - len(common)) / (2 * len(common)) ** 0.5


def test_samples_follow_the_density(language_model: LanguageModel) -> None:
    distribution = language_model(language_model.encode(PROMPTS))
    support, value = distribution.enumerate_support(), distribution.sample((5000,))
    prob = distribution.log_prob(support).exp()
    for n in range(len(PROMPTS)):
        density = dict(zip(map(tuple, support[:, n].tolist()), prob[:, n].tolist(), strict=True))
        counts = Counter(map(tuple, value[:, n].tolist()))
        assert counts.keys() <= density.keys()
        assert excess(counts, density) < 4


@pytest.mark.parametrize("sample_shape", [(), (4,), (2, 4)])
@pytest.mark.parametrize("batch_shape", [(3,), (5, 3)])
def test_shapes(sample_shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> None:
    language_model = tiny(max_new_tokens=4)
    distribution = language_model(language_model.encode(PROMPTS)).expand(batch_shape)
    value = distribution.sample(sample_shape)
    assert isinstance(distribution, pyro.distributions.TorchDistribution)
    assert distribution.shape(sample_shape) == value.shape == (*sample_shape, *batch_shape, 4)
    assert value.dtype == torch.long
    assert distribution.log_prob(value).shape == (*sample_shape, *batch_shape)
    assert distribution.log_prob_per_token(value).shape == value.shape


def test_one_prompt_expands_to_a_batch_of_equals() -> None:
    language_model = tiny()
    distribution = language_model(language_model.encode(["a b"]))
    value = distribution.expand([4]).sample()
    assert_close(
        distribution.expand([4]).log_prob(value), distribution.log_prob(value[:, None])[:, 0]
    )


def test_plates_vectorise_particles(network: str) -> None:
    language_model = tiny(network)
    prompts = language_model.encode(PROMPTS)

    def program() -> None:
        with pyro.plate("particles", 4, dim=-2), pyro.plate("prompts", 3, dim=-1):
            pyro.sample("response", language_model(prompts))

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["response"]
    assert site["value"].shape == (4, 3, 3)
    expected = per_token_alone(language_model, prompts, site["value"]).sum(-1)
    assert_close(site["log_prob"], expected, rtol=0, atol=1e-10)


USES: dict[str, Callable[[ResponseDistribution, Tensor], Tensor]] = {
    "sample with a sample shape": lambda distribution, _: distribution.sample((4,)),
    "sample expanded": lambda distribution, _: distribution.expand([4, 3]).sample(),
    "log_prob": lambda distribution, value: distribution.log_prob(value),
    "log_prob expanded": lambda distribution, value: distribution.expand([4, 3]).log_prob(value),
    "log_prob_per_token": lambda distribution, value: distribution.log_prob_per_token(value),
    "next_token_logits": lambda distribution, value: distribution.next_token_logits(value),
}


@pytest.mark.parametrize("use", USES)
def test_particles_share_one_prefill_of_each_prompt(
    use: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_decoder, "LITTLE_WORK", 0)  # as on a CPU
    language_model = tiny(network)
    distribution = language_model(language_model.encode(PROMPTS))
    value = distribution.sample((4,))
    passes: list[tuple[int, int]] = []
    language_model.network.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    USES[use](distribution, value)
    prefill, *rest = passes
    assert prefill == (3, 4)
    num_rows = [rows for rows, _ in rest]
    assert max(num_rows) <= 12
    assert use.startswith("sample") or set(num_rows) == {12}  # finished responses leave a decode
    assert sum(width for _, width in rest) == 2  # the last of three tokens is never read


@pytest.mark.on_cpu  # a GPU has more room
@pytest.mark.parametrize(("room", "most"), [(3, 3), (7, 4)])
def test_as_many_responses_are_read_together_as_memory_holds(
    room: int, most: int, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt has 8; for a micro-batch of one, 4 without gradient are read together."""
    language_model = tiny(network)
    prompts = language_model.encode(PROMPTS)
    decoder = language_model(prompts).decoder
    layers = decoder.start(prompts)[1].cache.layers
    num_bytes = sum(part.nbytes for each in layers for part in (each.keys, each.values))
    assert decoder.room == cached_decoder.ROOM // (num_bytes // prompts.ids.numel())
    monkeypatch.setattr(type(decoder), "room", 7 * room)  # 4 tokens of a prompt, 3 of a response
    passes = []
    language_model.network.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    language_model(prompts).in_micro_batches(1).sample((8,))
    assert max(passes) == most


@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_tokens_are_drawn_from_the_softmax_and_never_where_it_is_zero(temperature: float) -> None:
    logits = torch.tensor([-torch.inf, 0.0, 1.0, -torch.inf, -2.0, 0.5, -torch.inf])
    counts = Counter(sample_token(logits.expand(20_000, -1), temperature).tolist())
    prob = dict(enumerate((logits / temperature).softmax(-1).tolist()))
    assert counts.keys() <= {1, 2, 4, 5}
    assert excess(counts, prob) < 4


# A checkpoint that this project did not train


def test_stories_log_prob_is_that_of_a_plain_pass(
    stories: LanguageModel, dtype: torch.dtype
) -> None:
    prompts = stories.encode(STORY_PROMPTS)
    value = stories(prompts).sample((4,))
    value[:2, :, 5], value[:2, :, 6:] = (
        stories.end_ids[0],
        stories.pad_id,
    )  # the model itself would rarely end so soon
    expected = [
        [plain_log_prob(stories, *pair) for pair in zip(alone(prompts), row, strict=True)]
        for row in value
    ]
    tolerance = stories.max_new_tokens * TOLERANCE[dtype]
    assert_close(
        stories(prompts).log_prob(value),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=tolerance,
    )


def test_suffixes_are_drawn_from_the_conditional(prior, prompts):
    """Given the first token, the rest has the distribution p(x) / p(x_1); the prefix stays."""
    distribution = prior(prompts)
    value = distribution.sample((1,)).expand(20_000, -1, -1)
    start = torch.ones(2, dtype=torch.long)
    drawn = distribution.sample_suffix(value, start)
    assert torch.equal(drawn[..., 0], value[..., 0])
    support = distribution.enumerate_support()
    log_prob = distribution.log_prob(support)
    for n in range(2):
        given = support[:, n, 0] == value[0, n, 0]
        expected = log_prob[given, n].softmax(0)
        rows, counts = drawn[:, n].unique(dim=0, return_counts=True)
        same = (support[given, n, None] == rows).all(-1)
        share = (same * counts).sum(-1) / len(drawn)
        assert torch.allclose(share.double(), expected, atol=0.015)


def test_suffixes_from_the_start_are_samples_and_from_the_end_are_the_value(prior, prompts):
    distribution = prior(prompts)
    value = distribution.sample((5,))
    torch.manual_seed(1)
    fresh = distribution.sample((5,))
    torch.manual_seed(1)
    assert torch.equal(
        distribution.sample_suffix(value, torch.zeros(5, 2, dtype=torch.long)), fresh
    )
    assert torch.equal(distribution.sample_suffix(value, torch.full((5, 2), 3)), value)


def test_another_temperature_leaves_the_original_alone(prior, prompts):
    distribution = prior(prompts)
    value = distribution.sample((5,))
    before = distribution.log_prob(value)
    hot = distribution.at_temperature(2.0)
    assert hot.temperature == 2.0
    assert not torch.allclose(hot.log_prob(value), before)
    assert torch.equal(distribution.log_prob(value), before)
    assert torch.allclose(
        hot.log_prob(hot.enumerate_support()).exp().sum(0), torch.ones(2, dtype=torch.float64)
    )


def test_hidden_states_make_the_logits(prior, prompts):
    """The output layer on the state at t gives the logits of token t."""
    distribution = prior(prompts)
    value = distribution.sample((4,))
    per_token, hidden = distribution.log_prob_and_hidden(value)
    assert_close(per_token, distribution.log_prob_per_token(value))
    is_token = distribution.space.is_token(value)
    logits = prior.network.get_output_embeddings()(hidden)
    assert torch.allclose(
        logits[is_token], distribution.next_token_logits(value)[is_token], atol=1e-10
    )
    assert (hidden[~is_token] == 0).all()
