"""The decode reads values of tensors at its checks alone, and its errors name the place."""

from collections import Counter
from typing import Any, Self
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import logging

from model import LanguageModel
from model.networks.checks import without_head
from model.prior import cached_decoder, decode
from tests.model.tiny import NETWORKS, PROMPTS, gpt2, tiny, tiny_tokenizer

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
"""Operations that wait for a GPU."""


class Reads(TorchDispatchMode):
    """Counts the operations that wait for a GPU, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        def tolist(tensor: torch.Tensor) -> list:
            self.counts["tolist"] += 1  # on a CPU no operation of torch
            return tensor.numpy(force=True).tolist()

        def cpu(tensor: torch.Tensor) -> torch.Tensor:
            self.counts["cpu"] += 1
            return tensor

        self._patch = patch.multiple(torch.Tensor, tolist=tolist, cpu=cpu)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._patch.stop()
        super().__exit__(*error)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        has_mask = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if has_mask or name in WAITS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cached_decoder, decode):
        monkeypatch.setattr(module, "is_asynchronous", lambda device: True)


def unending(network: str, num_tokens: int) -> LanguageModel:
    """A language model with responses of T tokens, none of which ends early."""
    language_model = tiny(network, max_new_tokens=num_tokens)
    layer = language_model.network.get_output_embeddings()

    def without_end(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, logits.new_zeros((), dtype=torch.long), -1e9)

    layer.register_forward_hook(without_end)
    return language_model


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("network", NETWORKS)
def test_reads_do_not_grow_with_the_tokens_between_checks(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "INTERVAL", 5)
    counts = []
    for num_tokens in (6, 10):
        distribution = unending(network, num_tokens)
        distribution = distribution(distribution.encode(PROMPTS))
        with Reads() as reads:
            distribution.sample((4,))
        counts.append(reads.counts)
    assert counts[0] == counts[1]


def test_the_generator_is_left_as_without_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    language_model, numbers = tiny(max_new_tokens=9), []
    for is_gpu in (False, True):
        monkeypatch.setattr(decode, "is_asynchronous", lambda device, is_gpu=is_gpu: is_gpu)
        torch.manual_seed(1)
        response = language_model(language_model.encode(["a"])).sample()
        assert not language_model.space.is_token(response)[0, -1]  # tokens after it were drawn
        numbers.append(torch.rand(()).item())
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("whole", [False, True], ids=["after the prompts", "with the prompts"])
@pytest.mark.parametrize("texts", [["a b", "b a"], ["a b c a", "", "b"]])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_pass_is_the_same_on_a_gpu_and_reads_no_mask_without_padding(
    network: str, texts: list[str], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model = unending(network, 6).requires_grad_(True)
    prompts = language_model.encode(texts)
    distribution = language_model(prompts)
    response = distribution.sample((4,))
    weights = list(language_model.parameters())
    passes: list[int] = []
    body = without_head(language_model.network)
    body.register_forward_pre_hook(lambda *_: passes.append(1))

    def results() -> list[torch.Tensor]:
        """Log-probabilities, also in micro-batches, their gradients, hidden states and logits."""
        log_prob = distribution.log_prob(response)
        grads = torch.autograd.grad(log_prob.sum(), weights)
        assert len(passes) == (1 if whole and cached_decoder.is_asynchronous(None) else 2)
        divided = distribution.in_micro_batches(2).log_prob(response)
        grads += torch.autograd.grad(divided.sum(), weights)
        together = distribution.log_prob_and_hidden(response)
        return [log_prob, *grads, divided, *together, distribution.next_token_logits(response)]

    monkeypatch.setattr(cached_decoder, "is_asynchronous", lambda _: False)
    expected = results()
    passes.clear()
    monkeypatch.setattr(cached_decoder, "LITTLE_WORK", 1e12 if whole else 0)
    monkeypatch.setattr(cached_decoder, "is_asynchronous", lambda _: True)
    for got, other in zip(results(), expected, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-5, atol=1e-5)  # Llama rounds to float32
    for value, counts in (
        (response, {}),  # ids and lengths of draws are known
        (response.clone(), {"_local_scalar_dense": 1, "tolist": 1}),
    ):
        with Reads() as reads:
            distribution.log_prob(value)
        if not prompts.is_padded:
            assert reads.counts == counts


def test_a_network_with_a_padding_id_does_not_search_for_padding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = gpt2()
    network.config.pad_token_id = 2  # of the word at which the prompts end
    language_model = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    prompts = language_model.encode(["b a", "c a"])
    response = torch.full((2, 3), 3)
    transformers_logger = logging.get_logger("transformers")
    transformers_logger.addHandler(caplog.handler)
    try:
        with Reads() as reads:
            language_model(prompts).log_prob(response)
    finally:
        transformers_logger.removeHandler(caplog.handler)
    assert not caplog.messages
    # the check of the responses, and their lengths
    assert reads.counts == {"_local_scalar_dense": 1, "tolist": 1}


@pytest.mark.usefixtures("as_on_a_gpu")
def test_nan_between_two_checks_is_named_by_response_prompt_and_token() -> None:
    language_model = tiny(max_new_tokens=9)
    extend, steps = language_model.extend, iter(range(1, 9))

    def broken(state: Any, ids: torch.Tensor) -> Any:
        logits, state = extend(state, ids)
        if next(steps) == 3:
            logits[4] = torch.nan
        return logits.index_fill(-1, torch.tensor(0), -1e9), state

    language_model.extend = broken  # type: ignore[method-assign]
    language_model.start = first_without_end(language_model.start)  # type: ignore[method-assign]
    distribution = language_model(language_model.encode(PROMPTS))
    with pytest.raises(FloatingPointError, match="response 4, to prompt 1, token 3: the network's"):
        distribution.sample((2,))


def first_without_end(start: Any) -> Any:
    """A decoder's `start` with logits for which the end has probability 0."""

    def without_end(prompts: Any) -> Any:
        logits, state = start(prompts)
        return logits.index_fill(-1, torch.tensor(0), -1e9), state

    return without_end
