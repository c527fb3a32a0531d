"""States for checkpoints, tensors by name, of which one may be a part of another."""

from torch import Tensor


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state as a part of another, each name after `prefix`; see `part_of`."""
    return {prefix + name: tensor for name, tensor in state.items()}


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries of a state whose names start with `prefix`, by the rest of the name."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state[name] for name in names}
