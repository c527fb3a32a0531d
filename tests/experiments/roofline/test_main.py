"""The floor of a step is that of the operations and bytes which a network needs."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from experiments.roofline.__main__ import STEP, Roofline, costs_of, main
from experiments.roofline.by_hand import ByHand
from experiments.roofline.floors import Ceilings, Work, median_seconds
from experiments.roofline.networks import SHAPES
from guides import LoRA
from model import LanguageModel
from model.prior.named_priors import load_prior

RESPONSES, PROMPT, TOKENS = 3, 4, 5


def network_of(shape):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(SHAPES[shape](), attn_implementation="eager")


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_are_those_of_a_pass_of_the_network(shape):
    network = network_of(shape)
    work = Work.of(network, RESPONSES, 0, TOKENS + 1, 0.0)  # the last token is not read
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        embeddings = torch.zeros(RESPONSES, TOKENS, network.config.hidden_size, device="meta")
        network(inputs_embeds=embeddings)
    every_pair = work.attention * RESPONSES * TOKENS**2  # eager attention computes masked pairs
    causal = work.attention * RESPONSES * TOKENS * (TOKENS + 1) // 2
    # Llama makes its rotations by a product of matrices of one column
    assert counter.get_total_flops() == pytest.approx(
        work.forward_flops() - causal + every_pair, rel=1e-5
    )


def test_a_decode_reads_the_weights_for_each_token_and_the_cache_of_the_tokens_before():
    network = network_of("gpt2-tiny").to(torch.bfloat16)
    work = Work.of(network, RESPONSES, PROMPT, TOKENS, 0.0)
    seconds = work.decode(Ceilings(flops=float("inf"), bandwidth=1.0))
    cached = sum(PROMPT + RESPONSES * t for t in range(TOKENS - 1))
    per_position = 2 * 4 * 256 * 2  # keys and values of 4 layers of width 256, 2 bytes each
    weights = 2 * (4 * 12 * 256**2 + 256 * 4096)
    assert seconds == TOKENS * weights + per_position * cached


def test_a_gradient_costs_a_second_pass_and_a_third_where_the_weights_train():
    network = network_of("gpt2-tiny")
    ceilings = Ceilings(flops=1.0, bandwidth=float("inf"))
    frozen, trained = (Work.of(network, RESPONSES, PROMPT, TOKENS, s) for s in (0.0, 1.0))
    assert frozen.score_and_gradient(ceilings) == 2 * frozen.score(ceilings)
    assert trained.score_and_gradient(ceilings) == 3 * frozen.score(ceilings)


@pytest.fixture(scope="module")
def prior():
    return load_prior("film-reviews", max_new_tokens=3, temperature=1.0, dtype="float64")


def test_scores_by_hand_are_those_of_the_library(prior):
    guide, prompts = LoRA(prior), prior.encode(["The film was", "The"])
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    hand = ByHand(prior, guide, prompts, 2)
    response = hand.response.view(2, 2, 3)
    for network, program in ((hand.prior, prior), (hand.guide, guide.distribution)):
        expected = program(prompts).log_prob(response)
        assert torch.allclose(hand.log_prob(network).view(2, 2).double(), expected, atol=1e-4)
    hand.score_and_go_back()
    assert all(parameter.grad is None for parameter in guide.parameters())


def test_generate_goes_on_to_the_last_token(prior):
    ends_soon = LanguageModel(prior.network, prior.tokenizer, max_new_tokens=3, end_ids=range(3000))
    response = ByHand(ends_soon, LoRA(ends_soon), ends_soon.encode(["The"]), 2).response
    assert response.shape == (2, 3)
    assert bool((response >= 3000).all())


def test_floor_and_work_by_hand_of_a_step_are_sums_over_the_phases():
    times = [[1.0, 3.0, 2.0], [8.0, 4.0, 9.0], [1.0, 2.0, 3.0], [3.0, 4.0, 0.5]]
    costs = costs_of(["draw", STEP], [*times[:2], times[2]], [0.5])
    assert costs["draw"][:3] == (2.0, 0.5, 2.0)
    assert costs["draw"].to_hand.value == 1.0
    assert costs[STEP][:3] == (8.0, 0.5, 2.0)
    assert costs[STEP].to_hand.value == 3.5
    costs = costs_of(["draw", "score", STEP], [*times[:2], times[0], *times[2:]], [0.5, 1.0])
    assert costs[STEP][:3] == (2.0, 1.5, 4.0)


@pytest.mark.parametrize(
    ("network", "most", "held"), [("gpt2-tiny", 0.0, False), ("film-reviews", 1e9, True)]
)
def test_a_table_of_phases_is_printed(network, most, held, capsys, monkeypatch):
    monkeypatch.setattr("experiments.roofline.__main__.TO_HAND", most)
    args = Roofline(networks=(network,), responses=2, max_new_tokens=2, rounds=2, device="cpu")
    assert [finding.held for finding in main(args)] == [held]
    output = capsys.readouterr().out
    for name in ("draw from", "under the prior", "gradient", "step", "by hand", "peak memory"):
        assert name in output


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"networks": ("no-such-folder",)}, "^--networks no-such-folder: "),
        ({"networks": ("film-reviews",), "prompt_tokens": 200}, "^--prompt-tokens: "),
    ],
)
def test_refusals_name_the_option(change, fault):
    with pytest.raises(SystemExit, match=fault):
        main(Roofline(**change, device="cpu"))


def test_one_cpu_thread_is_timed_without_the_load_of_others() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        waited = median_seconds(lambda: time.sleep(0.2), torch.device("cpu"), rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert waited < 0.1
