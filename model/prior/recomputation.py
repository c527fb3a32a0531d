"""Values whose graph is built in the backward pass, part by part, and is not held before.

    values = f(theta, x_1), ..., f(theta, x_B),   gradient = sum over parts of g_part df_part/dtheta

`torch.utils.checkpoint` would leave a graph of each part between the passes. Its small nodes keep
the memory of the activations, which are freed, from being used again.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Grads = Sequence[Tensor | None]


def deferred(
    values: Sequence[Tensor], leaves: Sequence[Tensor], gradient: Callable[[Grads], Grads]
) -> tuple[Tensor, ...]:
    """Values without gradient, given the gradient of a function. Once differentiable.

    Args:
        values: tensors without gradient.
        leaves: tensors that the values depend on.
        gradient: function of the gradients of the values that returns those of the leaves.
    """
    return _Deferred.apply(tuple(values), gradient, *leaves)


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: tuple[Tensor, ...], gradient: Callable[[Grads], Grads], *_: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            return None, None, *ctx.gradient(grads)


def add_gradients(
    total: list[Tensor | None],
    leaves: Sequence[Tensor],
    outputs: Iterable[Tensor],
    grads: Iterable[Tensor | None],
    *,
    in_place: bool = False,
) -> None:
    """Add to `total` the gradient with respect to `leaves`, given the gradients of outputs.

    With `in_place`, add to the `grad` of each leaf instead.

    Raises:
        RuntimeError: if an output depends on a parameter that is no leaf.
    """
    pairs = list(zip(outputs, grads, strict=True))
    outputs = [out for out, grad in pairs if grad is not None and out.requires_grad]
    grads = [grad for out, grad in pairs if grad is not None and out.requires_grad]
    known = {id(leaf) for leaf in leaves}
    if any(id(leaf) not in known for leaf in leaves_of(outputs)):
        raise RuntimeError(
            "a parameter plays a part for some responses of a step and not for others, and is no "
            "parameter of the decoder, which micro-batches need: leave micro_batch out"
        )
    if not outputs:
        return
    if in_place:
        torch.autograd.backward(outputs, grads, retain_graph=True)
        return
    # a graph that was there before, such as that of the weights of a mixture, serves every part
    terms = torch.autograd.grad(outputs, leaves, grads, retain_graph=True, allow_unused=True)
    for i, term in enumerate(terms):
        old = total[i]
        if term is not None:
            total[i] = term if old is None else old + term


def leaves_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """All leaves that require a gradient, such as parameters, that tensors depend on."""
    tensors, seen = list(tensors), set()
    leaves = {id(t): t for t in tensors if t.grad_fn is None and t.requires_grad}
    stack = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves[id(leaf)] = leaf
        stack += [following for following, _ in node.next_functions]
    return list(leaves.values())


def cut(value: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """A copy of a decoder's state with leaves in place of tensors that have a gradient.

    Appends each such tensor with its leaf to `pairs`. A tensor in a place that is not looked at
    stays: its gradient is computed for each part, through the graph before it.
    """
    if isinstance(value, Tensor):
        if not value.requires_grad:
            return value
        leaf = next((leaf for tensor, leaf in pairs if tensor is value), None)
        if leaf is None:
            leaf = value.detach().requires_grad_()
            pairs.append((value, leaf))
        return leaf
    if isinstance(value, tuple):
        items = [cut(item, pairs) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [cut(item, pairs) for item in value]
    if isinstance(value, nn.Module) or not hasattr(value, "__dict__") or isinstance(value, type):
        return value
    new = copy.copy(value)
    new.__dict__.update({name: cut(part, pairs) for name, part in vars(value).items()})
    return new
