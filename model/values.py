"""Checked values of rewards and factors at responses, computed by all ranks together."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.common import ranks
from model.common.devices import accelerators, generator_state, seed_generator
from model.common.provenance import through
from model.common.thread_lock import THREAD_LOCK
from model.likelihood import Factor, LikelihoodError, Reward, applies_to, check_values
from model.prior.division import Block, division
from model.prior.prompts import Prompts


class Values(NamedTuple):
    """Checked values of a reward or a factor."""

    value: Tensor  # `[..., N]`, float64; 0 where the reward or factor does not apply
    applies: Tensor  # `[N]`, True for the prompts to which the reward or factor applies

    @property
    def missing(self) -> Tensor:
        """The values with NaN where the reward or factor does not apply, `[..., N]`."""
        return self.value.masked_fill(~self.applies, torch.nan)


def values_of(
    label: str,
    piece: Reward | Factor,
    prompts: Prompts,
    response: Tensor,
    divisor: float | Tensor = 1.0,
) -> Values:
    """Checked values of a reward or a factor at responses `[..., N, T]`.

    Inside `divided` each rank computes the values of its own responses.

    Args:
        label: reward or factor in words, for errors.
        piece: the reward or factor.
        prompts: N prompts.
        response: responses.
        divisor: beta, one number or `[N]`, by which the values are divided next: checked too.
    """
    if (shared := division()) is None:
        return _values_of(label, piece, prompts, response, divisor)
    num_prompts = len(prompts)

    def of_ranks(response: Tensor) -> Tensor:
        grid = response.reshape(-1, num_prompts, response.shape[-1])  # [K, N, T]

        def of_block(block: Block) -> tuple[Tensor, ...]:
            whole = block.prompts == slice(None)
            own = prompts if whole else prompts[block.prompts]
            own_divisor = divisor[block.prompts] if isinstance(divisor, Tensor) else divisor
            with ranks.own_stream():
                return (_values_of(label, piece, own, grid[block], own_divisor).missing,)

        (missing,) = shared.compute(of_block, len(grid), num_prompts)
        return missing.reshape(response.shape[:-1])

    missing = through(of_ranks, response)
    absent = missing.isnan()
    return Values(missing.masked_fill(absent, 0.0), ~absent.reshape(-1, num_prompts).all(0))


def _values_of(
    label: str, piece: Reward | Factor, prompts: Prompts, response: Tensor, divisor: float | Tensor
) -> Values:
    value = through(partial(_called, label, piece, prompts), response)
    applies = applies_to(label, piece, prompts)  # after the call, in which a reward may learn
    value = check_values(label, value, response.shape[:-1], applies, divisor)
    return Values(value.masked_fill(~applies, 0.0), applies)


def _called(label: str, piece: Reward | Factor, prompts: Prompts, response: Tensor) -> Tensor:
    """Value of a reward or a factor, refused if it writes to its arguments, which others read.

    Behind a call that drew random numbers on a device, the generator of that device goes on from a
    seed that follows from its state before the call: a reward that seeds the generator would repeat
    the draws of responses.
    """
    given = [response, prompts.ids, prompts.mask]
    # an array of numpy shares the memory of a tensor on the CPU, and its changes have no version
    before = [tensor.clone() if tensor.is_cpu else _version(tensor) for tensor in given]
    devices = [torch.device("cpu"), *accelerators()]
    generators = {device: generator_state(device) for device in devices}
    with THREAD_LOCK.calling():
        value = piece(prompts, response)
    for device, state in generators.items():
        if not np.array_equal(state.numpy(), generator_state(device).numpy()):
            seed_generator(device, zlib.crc32(state.numpy().tobytes()))
    after = [tensor if tensor.is_cpu else _version(tensor) for tensor in given]
    if not all(map(_is_same, before, after)):
        fault = "changed responses or prompts in place"
        raise LikelihoodError(f"{label} {fault}: let it change a copy, as `response.clone()`")
    return value


def _version(tensor: Tensor) -> int:
    """Number of changes in place; tensors of the inference mode count none."""
    return 0 if tensor.is_inference() else tensor._version


def _is_same(before: Tensor | int, after: Tensor | int) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return np.array_equal(before.numpy(force=True), after.numpy(force=True))
    return bool(before == after)


def total_of(values: Sequence[Values], response: Tensor) -> Values:
    """Sum of some values at responses `[..., N, T]`; applies where one of the values does.

    The sum of no values is 0 and applies everywhere.
    """
    total = torch.zeros(response.shape[:-1], dtype=torch.float64, device=response.device)
    applies = total.new_full(total.shape[-1:], not values, dtype=torch.bool)
    for value, applies_here in values:
        total, applies = total + value, applies | applies_here
    return Values(total, applies)
