"""Shards of a network: each rank holds a part of every layer, and gathers a layer while it runs.

FSDP2 (`torch.distributed.fsdp.fully_shard`) around the layers of a network of `transformers`: one
group of tensors for each layer, and for each other part that has a matrix, such as the embeddings.
Vectors outside the layers, such as the last normalisation, stay whole: they are small.

    gather    all tensors of a layer, before each pass through the layer, forward and backward
    gradient  averaged over ranks; each rank holds its part

Ranks run the same passes in the same order: a rank that leaves a pass out stops the others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import transformers


class _Place(NamedTuple):
    """A tensor of a module inside a part of a network."""

    part: Any
    module: nn.Module
    name: str

    @property
    def tensor(self) -> nn.Parameter | None:
        """The tensor that the module has now: a shard, or the whole while the part runs."""
        return self.module._parameters[self.name]


class _Link(NamedTuple):
    """A tensor that a module reads from another place, which is gathered and freed there."""

    reader: _Place
    source: _Place


def shard_networks(
    networks: Iterable["transformers.PreTrainedModel"],
    whole_tensors: Iterable[Tensor] = (),
    *,
    device: torch.device,
) -> None:
    """Shard networks in place over all ranks, layer by layer.

    A tensor that several networks share is sharded once. Networks that train come first. A later
    network that shares tensors is frozen, and no gradient passes through it.

    Args:
        networks: networks with the same weights on each rank.
        whole_tensors: tensors that stay whole on each rank, such as adapters.
        device: device of the shards of this rank. The networks may be on a CPU before.
    """
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh

    networks, apart = list(networks), {id(tensor) for tensor in whole_tensors}
    mesh = init_device_mesh(device.type, (get_world_size(),))
    # the plan first: tensors that a layer has given up leave their ids to others
    sources: dict[int, _Place] = {}
    plans = [_plan(network, apart, sources) for network in networks]
    for network, plan in zip(networks, plans, strict=True):
        _shard(network, plan, mesh)


class _Plan(NamedTuple):
    """A part of a network, the tensors that it shards, and the links to tensors of other parts."""

    part: nn.Module
    places: list[_Place]
    links: list[_Link]


def _plan(
    network: "transformers.PreTrainedModel", apart: set[int], sources: dict[int, _Place]
) -> list[_Plan]:
    is_frozen = not any(parameter.requires_grad for parameter in network.parameters())
    known, plans = dict(sources) if is_frozen else {}, []
    for part in _parts(network):
        places, links = [], []
        for place in _places(part):
            key = id(place.tensor)
            if key in known:
                links.append(_Link(place, known[key]))
            elif key not in apart:
                known[key] = place
                places.append(place)
        plans.append(_Plan(part, places, links))
    sources |= known
    return plans


def _parts(network: "transformers.PreTrainedModel") -> Iterator[nn.Module]:
    """Layers of a network, and all other modules that have a matrix of their own."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    inside: set[nn.Module] = set()
    for module in network.modules():
        if module in inside:
            continue
        if isinstance(module, GradientCheckpointingLayer):
            inside |= set(module.modules())
            yield module
        elif any(p.dim() > 1 for p in module.parameters(recurse=False)):
            yield module


def _places(part: nn.Module) -> list[_Place]:
    """Tensors of a layer, or matrices of another module."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    is_layer = isinstance(part, GradientCheckpointingLayer)
    return [
        _Place(part, module, name)
        for module in (part.modules() if is_layer else [part])
        for name, parameter in module.named_parameters(recurse=False)
        if is_layer or parameter.dim() > 1
    ]


def _shard(network: "transformers.PreTrainedModel", plans: list[_Plan], mesh: Any) -> None:
    """Shard the parts of a network, and the network around them, which holds the rest whole."""
    from torch.distributed.fsdp import fully_shard

    settings = {"mesh": mesh, "reshard_after_forward": True}
    own = [plan.part for plan in plans]
    for part, places, links in plans:
        if places:
            sharded = {place.tensor for place in places}
            others = set(part.parameters()) - sharded
            fully_shard(part, **settings, ignored_params=others)
        if links:
            source = links[0].source.part
            (_run_within if any(source is each for each in own) else _gather)(part, source, links)
    fully_shard(network, **settings, ignored_params=set(network.parameters()))


def _run_within(part: nn.Module, source: Any, links: Sequence[_Link]) -> None:
    """Run a part, such as an output layer, as another method of the part whose tensors it reads."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    forward, release = part.forward, _released(links)

    def inside(*args: Any, **kwargs: Any) -> Any:
        _borrow(links)
        return forward(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return source.run_other(*args, **kwargs)
        finally:
            release()

    source.run_other = inside
    register_fsdp_forward_method(source, "run_other")
    part.forward = run


def _gather(part: nn.Module, source: Any, links: Sequence[_Link]) -> None:
    """Gather tensors of another network's part while a frozen part runs."""
    release = _released(links)

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if any(getattr(each, "requires_grad", False) for each in inputs):
            raise ValueError(
                "a gradient passes through a frozen network that shares sharded tensors with a "
                "network that trains: shard another guide, or give the two their own weights"
            )
        source.unshard()
        _borrow(links)

    def after(*_: Any) -> None:
        source.reshard()
        release()

    part.register_forward_pre_hook(before)
    part.register_forward_hook(after, always_call=True)


def _borrow(links: Iterable[_Link]) -> None:
    """Give the readers the tensors that their sources have now, the whole ones."""
    for reader, source in links:
        reader.module._parameters[reader.name] = source.tensor


def _released(links: Sequence[_Link]) -> Callable[[], None]:
    """Give the readers the shards of their sources; return a function that does so again."""
    shards = [source.tensor for _, source in links]

    def release() -> None:
        for (reader, _), shard in zip(links, shards, strict=True):
            reader.module._parameters[reader.name] = shard

    release()
    return release
