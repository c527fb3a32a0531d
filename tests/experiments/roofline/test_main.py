"""The floor of a step is that of the operations and bytes which a network needs."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from experiments.roofline.__main__ import Roofline, main
from experiments.roofline.ceilings import Ceilings, median_seconds
from experiments.roofline.floors import Work
from experiments.roofline.shapes import SHAPES

RESPONSES, PROMPT, TOKENS = 3, 4, 5


def network_of(shape):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(SHAPES[shape](), attn_implementation="eager")


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_are_those_of_a_pass_of_the_network(shape):
    network = network_of(shape)
    work = Work.of(network, RESPONSES, 0, TOKENS, 0.0)
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
    cached = sum(PROMPT + RESPONSES * t for t in range(TOKENS))
    per_position = 2 * 4 * 256 * 2  # keys and values of 4 layers of width 256, 2 bytes each
    weights = 2 * (4 * 12 * 256**2 + 256 * 4096)
    assert seconds == (TOKENS + 1) * weights + per_position * cached


def test_a_gradient_costs_a_second_pass_and_a_third_where_the_weights_train():
    network = network_of("gpt2-tiny")
    ceilings = Ceilings(flops=1.0, bandwidth=float("inf"))
    frozen, trained = (Work.of(network, RESPONSES, PROMPT, TOKENS, s) for s in (0.0, 1.0))
    assert frozen.score_and_gradient(ceilings) == 2 * frozen.score(ceilings)
    assert trained.score_and_gradient(ceilings) == 3 * frozen.score(ceilings)


def test_a_table_of_phases_is_printed(capsys):
    args = Roofline(responses=2, max_new_tokens=2, rounds=1, device="cpu")
    assert main(args) == []
    output = capsys.readouterr().out
    assert "The claim was not tested" in output
    assert all(phase in output for phase in ("draw from", "under the prior", "gradient", "step"))


def test_one_cpu_thread_is_timed_without_the_load_of_others() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        waited = median_seconds(lambda: time.sleep(0.2), torch.device("cpu"), rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert waited < 0.1
