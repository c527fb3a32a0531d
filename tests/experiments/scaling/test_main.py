"""Costs of a step on paper: formulas against a real network, and the tables of the document."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.scaling.__main__ import Scaling, main
from experiments.scaling.costs import NETWORKS, Machine, Network, Step
from guides import LoRA
from tests.model.tiny import tiny

DOCUMENT = Path(__file__).parents[3] / "docs" / "scaling.md"
TINY = Network(layers=2, width=16, kv_width=8, inner=32, vocab=5)
"""Shape of the tests' Llama."""


def test_formulas_are_those_of_a_network():
    prior = tiny("llama")
    assert TINY.weights == sum(p.numel() for p in prior.network.parameters())
    assert TINY.adapter(3) == LoRA(prior, rank=3).num_trained_parameters()
    ids = torch.ones(1, 7, dtype=torch.long)
    prior.network.set_attn_implementation("eager")  # the counter leaves the other out on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cache = prior.network(ids).past_key_values
    assert counter.get_total_flops() == 7 * TINY.forward(context=7)
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert 7 * TINY.cache == 2 * numbers  # in bfloat16


def test_shapes_are_those_of_llama_3():
    assert NETWORKS["8b"].weights == 8_030_261_248
    assert NETWORKS["70b"].weights == 70_553_706_496


def test_the_document_has_the_tables_of_the_script():
    text = DOCUMENT.read_text(encoding="utf-8")
    for table in main(Scaling()).split("\n\n"):
        assert table in text


def test_a_micro_batch_has_no_more_responses_than_a_gpu_has():
    def activations(micro_batch):
        step = Step(NETWORKS["8b"], 8, 16, 128, 512, micro_batch, rank=8, sharded=False)
        return step.memory()["score: activations of a micro-batch"]

    assert activations(8) == activations(2) == 2 * activations(1)


@pytest.mark.parametrize("rank", [0, 8])
def test_a_sharded_step_holds_less_and_sends_more(rank):
    sizes = {"gpus": 8, "responses": 512, "prompt": 128, "length": 512, "micro_batch": 8}
    whole, sharded = (
        Step(NETWORKS["8b"], **sizes, rank=rank, sharded=sharded) for sharded in (False, True)
    )
    assert sharded.memory()["peak"] < whole.memory()["peak"]
    sent = [step.seconds(Machine())["draw"][2] for step in (whole, sharded)]
    assert sent[0] == 0 < sent[1]
