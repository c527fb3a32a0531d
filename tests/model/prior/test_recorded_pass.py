"""A recorded pass has the numbers and the gradient of a plain pass, whatever ran in between."""

import copy
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from guides import FineTuned, LoRA
from inference import fit
from model import AlignmentModel, LanguageModel
from model.common import graphs
from model.common.graphs import has_graphs
from model.prior import recorded_pass
from model.prior.recorded_pass import RecordedPasses, recorded_passes
from tests.model.tiny import NETWORKS, PROMPTS, tiny


def plain_and_recorded(
    network: str, max_new_tokens: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[LanguageModel, ...]:
    """The same language model twice, the second with recorded passes."""
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "dtype": dtype}
    both = [tiny(network, compile_decode=compiled, **settings) for compiled in (False, True)]
    if not has_graphs(both[0].device):
        pytest.skip("graphs are those of `--device cuda` or `pretend`")
    for language_model in both:
        language_model.requires_grad_(True)
    return tuple(both)


def slopes(language_model: LanguageModel, log_prob: Tensor) -> list[Tensor | None]:
    weights = [weight for weight in language_model.network.parameters() if weight.requires_grad]
    return list(torch.autograd.grad(log_prob.square().sum(), weights, allow_unused=True))


def assert_same(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prompts", [["a b", "c a"], PROMPTS], ids=["one length", "padded"])
@pytest.mark.parametrize("network", NETWORKS)
def test_numbers_and_gradients_are_those_of_a_plain_pass(
    network: str, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of one shape, with other responses and other weights; with and without gradient."""
    plain, recorded = plain_and_recorded(network)
    recordings: list[object] = []
    original = recorded_pass._Pass.__init__
    monkeypatch.setattr(
        recorded_pass._Pass,
        "__init__",
        lambda self, *rest: (recordings.append(self), original(self, *rest))[-1],
    )
    for step in range(4):
        values = plain(plain.encode(prompts)).sample((3,))
        results = []
        for language_model in (plain, recorded):
            distribution = language_model(language_model.encode(prompts))
            log_prob = distribution.log_prob(values)
            with torch.no_grad():
                alone = distribution.log_prob(values)
            results.append([log_prob.detach(), alone, *slopes(language_model, log_prob)])
            with torch.no_grad():
                for weight in language_model.network.parameters():
                    weight.mul_(1.0 + 0.1 * step)
        assert_same(results[1], results[0])
    assert len(recordings) == 2


def test_a_replay_packs_the_adapters_of_the_time() -> None:
    """In half precision, where layers are packed in plain passes too."""
    guides = []
    for prior in plain_and_recorded("llama", dtype=torch.bfloat16):
        torch.manual_seed(0)
        guides.append(LoRA(prior.requires_grad_(False), rank=2))
    for step in range(4):
        results = []
        for guide in guides:
            for weight in guide.parameters():
                if weight.requires_grad:
                    weight.data.add_(0.1 + 0.1 * step)
            distribution = guide.distribution(guide.language_model.encode(["a b", "c a"]))
            log_prob = distribution.log_prob(torch.tensor([[[3, 2, 4, 1], [2, 4, 3, 3]]]))
            results.append([log_prob.detach(), *slopes(guide.language_model, log_prob)])
        assert_same(results[1], results[0])


def test_gradients_do_not_depend_on_the_order_of_passes() -> None:
    """A replay overwrites the activations of the replays before it: they are read again."""
    plain, recorded = plain_and_recorded("llama")
    first, second = plain.encode(["a b"]), plain.encode(["c a b"])
    values = [plain(prompts).sample((3,)) for prompts in (first, second, first)]

    def backward(language_model: LanguageModel) -> list[list[Tensor | None]]:
        passes = list(zip((first, second, first), values, strict=True))
        log_probs = [language_model(prompts).log_prob(value) for prompts, value in passes]
        return [slopes(language_model, log_probs[place]) for place in (1, 0, 2)]

    expected = backward(plain)
    for _ in range(3):
        assert_same(backward(recorded), expected)


def test_a_gradient_can_be_taken_twice() -> None:
    plain, recorded = plain_and_recorded("gpt2")
    prompts = plain.encode(["a b"])
    value = plain(prompts).sample((3,))
    expected = slopes(plain, plain(prompts).log_prob(value))
    for _ in range(2):
        log_prob = recorded(prompts).log_prob(value).square().sum()
        weights = list(recorded.network.parameters())
        for keep in (True, False):
            options = {"retain_graph": keep, "allow_unused": True}
            assert_same(list(torch.autograd.grad(log_prob, weights, **options)), expected)


def test_weights_that_changed_before_the_gradient_are_refused() -> None:
    _, recorded = plain_and_recorded("gpt2")
    prompts = recorded.encode(["a b"])
    for _ in range(2):
        log_prob = recorded(prompts).log_prob(recorded(prompts).sample((3,)))
    with torch.no_grad():
        recorded.network.transformer.h[0].mlp.c_fc.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        slopes(recorded, log_prob)


def test_weights_that_moved_are_recorded_again() -> None:
    plain, recorded = plain_and_recorded("gpt2")
    prompts = plain.encode(["a b"])
    value = plain(prompts).sample((3,))
    for _ in range(3):
        recorded(prompts).log_prob(value)
    for language_model in (plain, recorded):
        weight = language_model.network.get_output_embeddings().weight
        weight.data = -weight.data
    for _ in range(3):
        assert_same(recorded(prompts).log_prob(value), plain(prompts).log_prob(value))


def test_few_passes_stay_and_the_last_used_among_them() -> None:
    _, recorded = plain_and_recorded("gpt2")
    prompts = recorded.encode(["a"])
    value = recorded(prompts).sample((1,))
    for number in range(1, recorded_pass.MOST_PASSES + 3):
        for rows in (value, value.expand(number, -1, -1)):
            for _ in range(2):
                recorded(prompts).log_prob(rows)
    numbers = [ids_shape[0] for _, ids_shape, _, _ in recorded_passes(recorded)._passes]
    assert len(numbers) == recorded_pass.MOST_PASSES
    assert {1, recorded_pass.MOST_PASSES + 2} <= set(numbers)


@pytest.mark.parametrize(("family", "micro_batch"), [(LoRA, None), (FineTuned, 5)])
def test_a_fit_has_the_steps_of_a_plain_fit(family: Callable, micro_batch: int | None) -> None:
    plain, recorded = plain_and_recorded("llama")
    elbos = []
    for prior in (plain, recorded):
        prior.requires_grad_(False)
        reward = lambda prompts, response: (response == 2).double().sum(-1)  # noqa: E731
        torch.manual_seed(0)
        guide = family(copy.deepcopy(prior))
        options = {"num_steps": 4, "seed": 1, "micro_batch": micro_batch}
        elbos.append(
            fit(AlignmentModel(prior, reward, 0.5), guide, prior.encode(PROMPTS), **options)
        )
    expected, got = ([step["elbo"] for step in each.metrics] for each in elbos)
    assert got == pytest.approx(expected, rel=1e-6)


def test_passes_and_their_network_are_freed() -> None:
    _, recorded = plain_and_recorded("gpt2")
    prompts = recorded.encode(["a b"])
    for _ in range(3):
        recorded(prompts).log_prob(recorded(prompts).sample((3,))).sum().backward()
    networks, passes = weakref.ref(recorded), weakref.ref(recorded_passes(recorded))
    del recorded
    gc.collect()
    assert networks() is None
    assert passes() is None


def test_a_pass_that_waits_is_refused_by_name() -> None:
    passes = partial(RecordedPasses(), torch.nn.Linear(1, 1).requires_grad_(False))
    ids = torch.ones(2, 3, dtype=torch.long)
    if not has_graphs(ids.device):
        pytest.skip("graphs are those of `--device cuda` or `pretend`")

    def waiting(ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return (ids * int(ids.max()),)

    passes(waiting, ids, None)
    with pytest.raises(RuntimeError, match=r"cannot be recorded.*leave compile_decode out"):
        passes(waiting, ids, None)
    assert passes(lambda ids, mask: (ids + 1,), ids[:1], None)[0].tolist() == [[2, 2, 2]]


def test_a_replay_waits_for_nothing() -> None:
    _, recorded = plain_and_recorded("llama")
    prompts = recorded.encode(PROMPTS)
    rows = torch.arange(3)
    ids = torch.full((3, 4), 2)
    waits = getattr(torch.get_device_module(rows.device), "waits", None)
    if waits is None:
        pytest.skip("waits are counted on the device `pretend`")
    for _ in range(3):
        hidden = recorded.states_before(prompts, rows, ids)
    waits()
    hidden = recorded.states_before(prompts, rows, ids)
    hidden.sum().backward()
    assert waits() == {}
    assert isinstance(recorded_passes(recorded), RecordedPasses)


def test_passes_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of any length, and of different lengths, whole and in micro-batches."""
    monkeypatch.setattr(graphs, "SMALLEST", 4)
    _, recorded = plain_and_recorded("gpt2", max_new_tokens=12)
    prompts = recorded.encode(["a b", "c a"])
    shapes: list[torch.Size] = []
    original = LanguageModel._states

    def states(self: LanguageModel, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        shapes.append(ids.shape)
        return original(self, ids, mask)

    monkeypatch.setattr(LanguageModel, "_states", states)
    for micro_batch in (None, 5):
        for length in range(2, 13):
            value = torch.full((10, 2, 12), recorded.pad_id)
            value[..., :length] = 2
            value[0, :, 2:] = recorded.pad_id
            distribution = recorded(prompts).in_micro_batches(micro_batch)
            distribution.log_prob(value).sum().backward()
    assert {shape[1] for shape in shapes} == {2 + size - 1 for size in (4, 6, 8, 12)}
    assert len({shape[0] for shape in shapes}) <= 3


def test_recorded_gradients_have_weights_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live graph of a plain pass holds the stream of its weights, for which nothing may wait."""
    _, recorded = plain_and_recorded("gpt2")
    own = {id(weight) for weight in recorded.network.parameters()}
    seen: list[bool] = []
    original = torch.autograd.grad

    def grad(outputs: object, inputs: object, *rest: object, **options: object) -> object:
        seen.append(any(id(weight) in own for weight in inputs))
        return original(outputs, inputs, *rest, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    prompts = recorded.encode(["a b"])
    value = recorded(prompts).sample((3,))
    for _ in range(2):
        log_prob = recorded(prompts).log_prob(value)
    assert seen
    assert not any(seen)
    monkeypatch.undo()
    assert {id(weight) for weight in recorded.network.parameters()} == own
    assert log_prob.requires_grad


def test_a_network_whose_states_have_no_gradient() -> None:
    plain, recorded = plain_and_recorded("llama")
    for language_model in (plain, recorded):
        language_model.requires_grad_(False)
        language_model.network.lm_head.weight.requires_grad_(True)
    prompts = plain.encode(["a b"])
    value = plain(prompts).sample((3,))
    expected = slopes(plain, plain(prompts).log_prob(value))
    for _ in range(3):
        assert_same(slopes(recorded, recorded(prompts).log_prob(value)), expected)


def test_passes_inside_and_outside_of_inference_mode() -> None:
    plain, recorded = plain_and_recorded("gpt2")
    prompts = plain.encode(["a b"])
    value = plain(prompts).sample((3,))
    expected = plain(prompts).log_prob(value).detach()
    for context in [torch.inference_mode] * 3 + [torch.no_grad] * 2 + [torch.inference_mode]:
        with context():
            assert_same(recorded(prompts).log_prob(value), expected)
