"""Draws in buffers of fixed shape are those of a plain decode, and wait for no device."""

import copy
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from pyro.distributions.util import is_validation_enabled
from transformers import MistralConfig, MistralForCausalLM

from guides import LoRA
from model import LanguageModel
from model.common.graphs import has_graphs, sizes_of_graphs
from model.prior import cached_decoder, compiled_step, decode
from model.prior.compiled_step import CompiledStep
from model.prior.fixed_state import FixedState
from tests.model.prior.test_decode import Reads
from tests.model.tiny import NETWORKS, PROMPTS, SPECIAL, WORDS, tiny, tiny_tokenizer

CASES = {
    "float64": {},
    "float32": {"dtype": torch.float32},
    "cold, several ends": {"temperature": 0.5, "end_ids": [0, 4], "pad_id": 2},
    "one token": {"max_new_tokens": 1},
    "longer": {"max_new_tokens": 9},
}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same buffers and operations, without a compiler."""
    monkeypatch.setattr(CompiledStep, "compile", lambda *_: None)


def draws(language_model: LanguageModel, prompts: list[str]) -> list[torch.Tensor]:
    """Draws, log-probabilities, draws of suffixes, and the next number of torch's generator."""
    distribution = language_model(language_model.encode(prompts))
    torch.manual_seed(3)
    value, log_prob = distribution.sample_and_log_prob((6,))
    length = torch.ones(6, len(prompts), dtype=torch.long)
    return [value, log_prob, distribution.sample_suffix(value, length), torch.rand(1)]


def assert_same_draws(plain: LanguageModel, compiled: LanguageModel, prompts: list[str]) -> None:
    for expected, got in zip(draws(plain, prompts), draws(compiled, prompts), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_draws_are_those_of_a_plain_decode(
    network: str, case: str, interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts with padding; prompts of another length use the same buffers afterwards."""
    plain = tiny(network, **CASES[case])
    compiled = tiny(network, **CASES[case], compile_decode=True)
    monkeypatch.setattr(decode, "is_asynchronous", lambda device: interval > 1)
    monkeypatch.setattr(decode, "INTERVAL", interval)
    for prompts in (PROMPTS, ["a", "b", "c b a"]):
        assert_same_draws(plain, compiled, prompts)
    assert len(compiled_step._STEPS[compiled]) == 1


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("network", NETWORKS)
def test_step_reads_no_value_and_allocates_no_buffer(network: str) -> None:
    language_model = tiny(network, compile_decode=True)
    first, state = language_model.start(language_model.encode(PROMPTS))
    rows = torch.arange(3)
    step = compiled_step.compiled_step(language_model, language_model.space, 1.0, first, state, 3)
    step.load(first, state, rows)
    buffers = [step.response, step.state.column, *(layer.keys for layer in step.state.cache.layers)]
    places = [buffer.data_ptr() for buffer in buffers]
    with Reads() as reads, torch.no_grad():
        step(language_model)
        step(language_model)
    assert not reads.counts
    assert [buffer.data_ptr() for buffer in buffers] == places
    assert (step.state.column == state.num_read + 2).all()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_reads_the_columns_that_it_needs(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = list(range(1, 33))
    monkeypatch.setattr(CompiledStep, "extents", lambda step: every)
    read: list[int] = []

    def extend(self: LanguageModel, state: Any, ids: torch.Tensor) -> Any:
        if isinstance(state, FixedState):
            assert state.extent == int(state.column) + 1
            read.append(state.extent)
        return original(self, state, ids)

    original = LanguageModel.extend
    plain, compiled = tiny(network), tiny(network, compile_decode=True)
    monkeypatch.setattr(LanguageModel, "extend", extend)
    assert_same_draws(plain, compiled, PROMPTS)
    assert len(set(read)) > 1


def test_numbers_of_columns_grow_by_less_than_half() -> None:
    assert sizes_of_graphs(16) == [16]
    assert sizes_of_graphs(32) == [16, 24, 32]
    assert sizes_of_graphs(160) == [16, 24, 32, 48, 64, 96, 128, 160]


@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_draws_are_those_of_a_plain_decode(network: str) -> None:
    """Prompts with padding; then others, by the same graphs; then with other weights."""
    plain, compiled = tiny(network), tiny(network, compile_decode=True)
    if not has_graphs(plain.device):
        pytest.skip("graphs are those of `--device cuda` or `pretend`")
    for prompts in (PROMPTS, ["a", "b", "c b a"]):
        assert_same_draws(plain, compiled, prompts)
    for language_model in (plain, compiled):
        language_model.network.get_output_embeddings().weight.data.mul_(-1.0)
    assert_same_draws(plain, compiled, PROMPTS)
    assert len(compiled_step._STEPS[compiled]) == 1


@pytest.mark.usefixtures("uncompiled")
def test_draws_inside_and_outside_of_inference_mode() -> None:
    """Also with adapters in half precision, which are rounded or packed once for a draw."""
    plain, compiled = tiny(), tiny(compile_decode=True)
    adapted = LoRA(tiny(dtype=torch.bfloat16, compile_decode=True), rank=2).language_model
    for context in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with context():
            assert_same_draws(plain, compiled, PROMPTS)
            draws(adapted, PROMPTS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_draws_are_those_of_a_plain_decode() -> None:
    assert_same_draws(tiny("llama"), tiny("llama", compile_decode=True), PROMPTS)
    assert is_validation_enabled()


def test_the_checks_of_distributions_stay_on_beside_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`torch.compile` switches the checks off in its first call, for the whole process."""

    def compiling(function: Any, **_: Any) -> Any:
        def compiled(*arguments: Any) -> None:
            torch.distributions.Distribution.set_default_validate_args(False)
            function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compiling)
    draws(tiny(compile_decode=True), PROMPTS)
    assert is_validation_enabled()


@pytest.mark.usefixtures("uncompiled")
def test_weights_that_move_get_a_new_step_and_few_steps_stay() -> None:
    language_model = tiny(compile_decode=True)
    draws(language_model, PROMPTS)
    (old,) = compiled_step._STEPS[language_model].values()
    weight = language_model.network.get_output_embeddings().weight
    weight.data = weight.data.clone()
    draws(language_model, PROMPTS)
    assert old is not list(compiled_step._STEPS[language_model].values())[-1]
    for number in range(1, 8):
        language_model(language_model.encode(PROMPTS)).sample((number,))
    assert len(compiled_step._STEPS[language_model]) == compiled_step.MOST_STEPS


def test_a_sliding_window_is_refused_by_name() -> None:
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    network = MistralForCausalLM(MistralConfig(**sizes, **heads, **SPECIAL, sliding_window=4))
    with pytest.raises(ValueError, match="SlidingWindowLayer"):
        LanguageModel(network, tiny_tokenizer(), max_new_tokens=3, compile_decode=True)


def test_attention_of_another_kind_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_decoder, "WIDE", {"eager"})
    with pytest.raises(ValueError, match="GPT2LMHeadModel has attention by 'sdpa', expected one"):
        tiny(compile_decode=True)


def test_eager_attention_reads_the_same_mask() -> None:
    plain = tiny("llama", torch.float32)
    plain.network.set_attn_implementation("eager")
    prompts = plain.encode(PROMPTS)
    ids = torch.tensor([[2], [3], [4]])
    _, state = plain.start(prompts)
    fixed = FixedState(state, 3, 16)
    fixed.load(state, torch.arange(3))
    expected, _ = plain.extend(state, ids)
    got, _ = plain.extend(fixed, ids)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_draws_read_the_adapters_of_the_time(network: str) -> None:
    """In half precision, where adapters are rounded and packed once for a draw."""
    prior = tiny(network, dtype=torch.bfloat16, compile_decode=True)
    if not has_graphs(prior.device):
        pytest.skip("graphs are those of `--device cuda` or `pretend`")
    guide, prompts = LoRA(prior, rank=2), prior.encode(["a b", "b a"])
    adapters = [weight for weight in guide.parameters() if weight.requires_grad]
    of_before = None
    for _ in range(4):
        with torch.no_grad():
            for weight in adapters:
                weight.normal_()
            distribution = guide.distribution(prompts)
            drawn = decode.draw(replace(distribution._batch, rows=torch.arange(2).repeat(8)))
            value, log_prob = drawn.response.view(8, 2, -1), drawn.log_prob.sum(1).view(8, 2)
            scored = distribution.log_prob(value)
            torch.testing.assert_close(log_prob, scored, rtol=0, atol=0.3, check_dtype=False)
            if of_before is not None:
                assert (scored - of_before.distribution(prompts).log_prob(value)).abs().max() > 2
        of_before = copy.deepcopy(guide)
