"""Compiled layers have the numbers and the gradient of the layers, by few graphs for all passes."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from pyro.distributions.util import is_validation_enabled
from torch._dynamo.utils import counters
from transformers.models.llama.modeling_llama import LlamaMLP

from guides import FineTuned, LoRA
from model import LanguageModel
from model.networks.layers import compiled_layers
from model.networks.layers.layer_checkpoints import checkpointed_layers
from tests.model.tiny import PROMPTS, tiny

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference by the norm of the numbers."""
PADDED = [PROMPTS, ["a", "b a c"]]
ALL = [["a b", "b c"], ["a b c", "b c a", "c a b"], *PADDED]
slow = pytest.mark.slow
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
inductor = [slow, needs_compiler]


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No graph of another test, and a compiler that traces layers and writes no kernels."""
    if tiny().device.type not in ("cpu", "cuda"):
        pytest.skip("no compiler for this device")
    monkeypatch.setattr(compiled_layers, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    compiled_layers._compiled.cache_clear()
    yield
    compiled_layers._compiled.cache_clear()


def results(prior: LanguageModel, guide: torch.nn.Module, prompts: list[str]) -> list[torch.Tensor]:
    """Log-probabilities under prior and guide, without and with gradient, and the gradient."""
    response = torch.randint(2, 5, (5, len(prompts), prior.max_new_tokens))
    distribution = guide.distribution(prior.encode(prompts))
    with torch.no_grad():
        alone = [each.log_prob(response) for each in (prior(prior.encode(prompts)), distribution)]
    log_prob = distribution.log_prob(response)
    weights = [weight for weight in guide.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(log_prob.square().sum(), weights, allow_unused=True)
    flat = [slope.flatten().double() for slope in slopes if slope is not None]
    return [*alone, log_prob.detach(), torch.cat(flat)]


@pytest.mark.parametrize(
    ("network", "family", "dtype", "backend", "prompt_lists"),
    [
        ("llama", LoRA, torch.float64, "aot_eager", PADDED),
        pytest.param("gpt2", LoRA, torch.bfloat16, "aot_eager", ALL, marks=slow),
        pytest.param("llama", LoRA, torch.bfloat16, "aot_eager", ALL, marks=slow),
        pytest.param("gpt2", FineTuned, torch.float64, "aot_eager", ALL, marks=slow),
        pytest.param("llama", LoRA, torch.bfloat16, "inductor", ALL, marks=inductor),
        pytest.param("gpt2", LoRA, torch.float32, "inductor", ALL, marks=inductor),
        pytest.param("gpt2", FineTuned, torch.float64, "inductor", ALL, marks=inductor),
    ],
)
def test_scores_and_gradients_are_those_of_the_layers(
    network: str,
    family: Callable,
    dtype: torch.dtype,
    backend: str,
    prompt_lists: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One graph without and one with gradient, for all layers, with padding and without."""
    monkeypatch.setattr(compiled_layers, "BACKEND", backend)
    counters.clear()
    both = [
        tiny(network, dtype, max_new_tokens=6, compile_layers=is_compiled)
        for is_compiled in (False, True)
    ]
    guides = []
    for prior in both:
        torch.manual_seed(1)
        guides.append(family(prior))
        for weight in guides[-1].parameters():
            if weight.requires_grad:
                weight.data.add_(torch.randn_like(weight), alpha=0.1)
    for prompts in prompt_lists:
        torch.manual_seed(2)
        expected = results(both[0], guides[0], prompts)
        torch.manual_seed(2)
        for plain, got in zip(expected, results(both[1], guides[1], prompts), strict=True):
            assert (got - plain).double().norm() <= TOLERANCE[dtype] * plain.double().norm()
    # of the prior without gradient; of adapted layers both; each with padding and without. The
    # prior is compiled without padding as it is built
    number = 2 if family is FineTuned else 3
    expected_number = 2 * number if len(prompt_lists) > 2 else number + 1
    assert counters["stats"]["unique_graphs"] == expected_number
    with checkpointed_layers():
        results(both[1], guides[1], ["a b", "b c"])
    assert counters["stats"]["unique_graphs"] == expected_number
    assert is_validation_enabled()


def test_layers_that_cannot_be_compiled_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LlamaMLP, "forward", lambda _, x: x if x.sum() > 0 else 1.0 * x)
        with pytest.raises(RuntimeError, match=r"LlamaDecoderLayer cannot be compiled: .*leave"):
            tiny("llama", compile_layers=True)
    with monkeypatch.context() as patch:
        compiled_layers._compiled.cache_clear()
        output = compiled_layers._output
        patch.setattr(compiled_layers, "_output", lambda *rest: 1.1 * output(*rest))
        with pytest.raises(ValueError, match=r"layers of LlamaForCausalLM differ by 0\.\d"):
            tiny("llama", compile_layers=True)
    monkeypatch.setattr(compiled_layers, "repeated_layers", lambda network: [])
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot be compiled by layers"):
        tiny(compile_layers=True)
