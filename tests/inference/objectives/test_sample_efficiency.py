"""Distance from the posterior at equal numbers of fresh responses, on a random network."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from guides import FineTuned
from inference import OBJECTIVES, Enumeration, fit
from model import AlignmentModel, LanguageModel, TokenReward
from model.prior.untrained import END, numbered_words


def llama(vocab_size, max_new_tokens, seed):
    """A random Llama. A padding id would fix the embedding of the BOS at 0."""
    sizes = {"vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 128}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}
    special = {"bos_token_id": END, "eos_token_id": END}
    config = LlamaConfig(**sizes, **layers, **special, initializer_range=0.15)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(config)
    tokenizer = numbered_words(vocab_size, bos_token="<end>", eos_token="<end>", pad_token="<end>")
    return LanguageModel(network, tokenizer, max_new_tokens=max_new_tokens)


def random_pairs(vocab_size, seed):
    """The mean over tokens of a random table of pairs of neighbours."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(vocab_size, vocab_size, generator=generator, dtype=torch.float64)

    def reward(response, is_token):
        before = torch.cat([torch.zeros_like(response[..., :1]), response[..., :-1]], -1)
        return (table[before, response] * is_token).sum(-1) / is_token.sum(-1).clamp(min=1)

    return reward


@pytest.mark.slow
def test_trajectory_balance_leaves_a_small_part_of_what_leave_one_out_leaves():
    """Less than a sixth after 100 batches of 64 responses; the share falls with more batches."""
    prior = llama(6, max_new_tokens=4, seed=2)
    reward = TokenReward(random_pairs(prior.vocab_size, 3), prior, upper_bound=1.0)
    model, prompts = AlignmentModel(prior, reward, beta=0.2), prior.encode([""])
    truth, left = Enumeration(model, prompts), {}
    for name, rate in (("leave-one-out", 5e-4), ("trajectory-balance", 3e-3)):
        guide, objective = FineTuned(prior), OBJECTIVES[name](num_particles=64)
        num_steps = 100 * getattr(objective, "epochs", 1)
        options = {"num_steps": num_steps, "learning_rate": rate, "progress": False}
        fit(model, guide, prompts, objective=objective, **options)
        left[name] = truth.kl_guide_posterior(guide).item()
    assert left["trajectory-balance"] < left["leave-one-out"] / 6, left
