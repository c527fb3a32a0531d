"""A cache that writes a token in place: the keys of a copying cache, and copies of its own."""

import copy

import torch
from torch.testing import assert_close
from transformers.cache_utils import DynamicLayer

from model.networks.layers import growing_layer
from model.networks.layers.growing_layer import GrowingLayer


def tokens(seed: int, length: int = 1, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, batch, 2, length, 4, generator=generator)
    return both[0], both[1]


def filled(layer: DynamicLayer, num_tokens: int) -> DynamicLayer:
    """The layer after five tokens at once, then single tokens."""
    layer.update(*tokens(0, length=5))
    for seed in range(1, num_tokens + 1):
        layer.update(*tokens(seed))
    return layer


@torch.no_grad()
def test_keys_and_values_are_those_of_a_copying_cache(monkeypatch):
    monkeypatch.setattr(growing_layer, "SLACK", 2)  # a new buffer for every other token
    layer, expected = filled(GrowingLayer(), 9), filled(DynamicLayer(), 9)
    assert_close(layer.keys, expected.keys, rtol=0, atol=0)
    assert_close(layer.values, expected.values, rtol=0, atol=0)
    assert layer.get_seq_length() == 14


@torch.no_grad()
def test_a_token_is_written_in_place():
    layer = filled(GrowingLayer(), 1)
    place = layer.keys.data_ptr()
    filled_more = layer.update(*tokens(7))[0]
    assert filled_more.data_ptr() == place


@torch.no_grad()
def test_selected_sequences_go_on_by_themselves():
    layer = filled(GrowingLayer(), 3)
    other = copy.copy(layer)
    other.batch_select_indices(torch.tensor([2, 2]))
    before = other.keys.clone()
    layer.update(*tokens(8))
    other.update(*tokens(9, batch=2))
    assert_close(other.keys[:, :, :-1], before, rtol=0, atol=0)
    assert_close(layer.keys[:, :, -1:], tokens(8)[0], rtol=0, atol=0)
    assert_close(other.keys[:, :, -1:], tokens(9, batch=2)[0], rtol=0, atol=0)


def test_copies_of_one_sequence_have_its_keys_and_share_its_gradient():
    rows = torch.tensor([0, 0, 0])
    layer, expected = GrowingLayer(), DynamicLayer()
    keys = tokens(0, length=5, batch=1)[0].requires_grad_()
    for each in (layer, expected):
        each.update(keys, keys)
        each.batch_select_indices(rows)
    assert layer.keys.stride(0) == 0
    weight = tokens(1, length=5)[0]
    for part in ("keys", "values"):
        got, other = getattr(layer, part), getattr(expected, part)
        assert_close(got, other)
        grads = (torch.autograd.grad((weight * each).sum(), keys)[0] for each in (got, other))
        assert_close(*grads)
    with torch.no_grad():
        layer.update(*tokens(7))
    assert_close(layer.keys[:, :, -1:], tokens(7)[0])
    assert_close(layer.keys[:, :, :-1], expected.keys)


def test_gradients_pass_through_every_token():
    layer, (keys, values) = GrowingLayer(), tokens(1)
    layer.update(*tokens(0, length=5))
    layer.update(keys.requires_grad_(), values)
    layer.update(*tokens(2))
    layer.keys.sum().backward()
    assert_close(keys.grad, torch.ones_like(keys))
