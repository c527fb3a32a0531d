"""Packed linear layers: the products of the layers up to rounding, and one product for each x."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from model import LanguageModel
from model.networks.layers import head, packed_layers
from model.networks.layers.packed_layers import FEWEST, PackedLayers, packs
from tests.model.networks.layers.test_adapted_linear import Operations, adapted_twice
from tests.model.tiny import PROMPTS, tiny

pytestmark = pytest.mark.on_cpu
HALF = torch.bfloat16
IDS = torch.tensor([[2, 3, 4], [4, 0, 3]])
supported = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="bfloat16 is emulated on this CPU",
)


def networks(name: str) -> list[LanguageModel]:
    """A network without adapters, and one with two adapters on each layer."""
    return [tiny(name, HALF), adapted_twice(HALF, name).language_model]


def logits_of(language_model: LanguageModel) -> Tensor:
    return language_model.network(IDS.cpu()).logits


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of layers that are packed together, one for each product packed from now on."""
    counts: list[int] = []
    pack = packed_layers._Packed

    def counting(layers: Any, num_rows: int) -> Any:
        counts.append(len(layers))
        return pack(layers, num_rows)

    monkeypatch.setattr(packed_layers, "_Packed", counting)
    return counts


def error(logits: Tensor, language_model: LanguageModel) -> float:
    """Distance of logits to those of the same weights in float32, relative to their norm."""
    exact = copy.deepcopy(language_model.network).float()(IDS.cpu()).logits
    return float((logits - exact).norm() / exact.norm())


@supported
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_packed_layers_compute_what_the_layers_do(name: str, index: int) -> None:
    language_model = networks(name)[index]
    expected = logits_of(language_model)
    with PackedLayers(language_model.network):
        passes = [logits_of(language_model) for _ in range(3)]
    assert torch.equal(passes[0], expected)
    assert torch.equal(passes[1], passes[2])
    assert error(passes[1], language_model) < 2.0 * error(expected, language_model) < 0.1


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay in torch's order, and one layer without adapters stays as it is."""
    monkeypatch.setattr(packed_layers, "reorders", lambda _: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("name", "index"), [("llama", 0), ("llama", 1), ("gpt2", 1)])
@torch.no_grad()
def test_weights_on_a_gpu_stay_where_a_recorded_pass_reads_them(name: str, index: int) -> None:
    language_model = networks(name)[index]
    packing, places = PackedLayers(language_model.network), []
    for _ in range(2):
        expected = logits_of(language_model)
        with packing:
            got = [logits_of(language_model) for _ in range(2)][1]
        assert error(got, language_model) < 2.0 * error(expected, language_model) < 0.2
        packed = [group.packed for group in packing._groups.values() if group.packed]
        places.append([p.data_ptr() for each in packed for p in each.parts()])
        for parameter in language_model.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert places[0] == places[1] != []


@pytest.mark.usefixtures("as_on_a_gpu")
@torch.no_grad()
def test_a_token_of_llama_has_two_products_for_each_input() -> None:
    network = adapted_twice(HALF).language_model.network
    with PackedLayers(network) as packing:
        network(IDS.cpu())
        with Operations({"mm", "addmm", "addmm_"}) as products:
            network(IDS.cpu())
    # of two layers: queries, keys and values; their output; gate and up; down; and the head
    assert products.number == 2 * 4 * 2 + 1
    assert [bool(group.packed) for group in packing._groups.values()].count(False) == 1


@pytest.mark.usefixtures("as_on_a_gpu")
@torch.no_grad()
def test_an_output_layer_is_aligned_once_for_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks("gpt2")[0].network
    for module in (head, packed_layers):
        monkeypatch.setattr(module, "is_asynchronous", lambda _: True)
    hidden = torch.randn(3, network.config.n_embd, dtype=HALF)
    expected = head.logits_of(network, hidden)
    with PackedLayers(network), Operations({"constant_pad_nd"}) as copies:
        passes = [head.logits_of(network, hidden) for _ in range(3)]
    assert copies.number == 0
    assert [logits.stride(0) % head.ALIGNMENT > 0 for logits in passes] == [True, False, False]
    for logits in passes:
        assert_close(logits, expected)


@supported
@torch.no_grad()
def test_layers_that_read_one_tensor_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    network = adapted_twice(HALF).language_model.network
    counts = counted(monkeypatch)
    with PackedLayers(network):
        for _ in range(3):
            network(IDS.cpu())
    # each of two layers: queries, keys and values; their output; gate and up; down
    assert counts == [*[3, 1, 2, 1] * 2, 1]


@supported
@torch.no_grad()
def test_each_entry_packs_the_weights_of_the_time() -> None:
    language_model = adapted_twice(HALF).language_model
    packing = PackedLayers(language_model.network)
    for _ in range(2):
        expected = logits_of(language_model)
        with packing:
            logits_of(language_model)
            got = logits_of(language_model)
        assert error(got, language_model) < 2.0 * error(expected, language_model) < 0.2
        for name, parameter in language_model.network.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, 0.0, 0.5)
    assert not any("forward" in vars(module) for module in language_model.network.modules())


def test_a_pass_with_gradient_inside_is_as_outside() -> None:
    network = adapted_twice(HALF).language_model.network
    parameters = [p for p in network.parameters() if p.requires_grad]

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(network(IDS.cpu()).logits.float().sum(), parameters))

    expected = gradients()
    with PackedLayers(network):
        for _ in range(2):
            assert all(torch.equal(*pair) for pair in zip(gradients(), expected, strict=True))


@supported
def test_long_draws_in_half_precision_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    num_packed = counted(monkeypatch)
    own = adapted_twice(HALF).language_model
    for num_tokens, is_packed in ((8, True), (7, False)):
        num_packed.clear()
        monkeypatch.setattr(packed_layers, "FEWEST", 8)
        language_model = LanguageModel(own.network, own.tokenizer, max_new_tokens=num_tokens)
        distribution = language_model(language_model.encode(PROMPTS))
        torch.manual_seed(0)
        response, log_drawn = distribution._draw((40,))
        assert bool(num_packed) == is_packed
        difference = log_drawn - distribution.log_prob(response)
        assert difference.abs().mean() < 0.1


def test_float32_and_short_decodes_are_not_packed() -> None:
    assert not packs(tiny("llama", torch.float32).network, 100)
    assert not packs(tiny("llama", HALF).network, FEWEST - 1)
    assert not packs(tiny("llama", HALF).network, 0)


def test_builds_without_one_dnn_pack_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not packs(tiny("llama", HALF).network, FEWEST)
