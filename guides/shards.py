"""A guide larger than one device: each rank holds a part of the guide's networks (FSDP2)."""

import torch
from torch import nn

from guides.guide import Guide, check_prior
from model import LanguageModel
from model.common.checks import boolean, instance
from model.common.devices import named_device
from model.networks.sharded_modules import move
from model.networks.shards import shard_networks


def shard(
    guide: nn.Module,
    prior: LanguageModel | None = None,
    *,
    gather_draws: bool = False,
    device: torch.device | str | None = None,
) -> None:
    """Shard the networks of a guide in place over all ranks, and the prior's if it is passed.

        shard(guide, prior)  # on every rank of a process group
        fit(model, guide, prompts, num_steps=100)
        with gathered(guide):
            if rank() == 0:
                guide.save_pretrained("tuned")

    The tensors that guide and prior share are sharded once, also without `prior`. Adapters and
    heads stay whole on each rank. Ranks sample and score together: a call on one rank alone waits
    for the others. A sharded guide cannot be copied.

    Args:
        guide: a guide, the same on every rank, before its first fit.
        prior: the prior, to shard it too.
        gather_draws: True to gather a network once for a draw, and not once for each token. For
            networks that fit into the memory of a device, next to the keys and values of the draw.
        device: device of the shards; default, the device of the guide's parameters. A model larger
            than one device is on the CPU before.

    Raises:
        ValueError: if neither guide nor prior has a network, or if their decode is compiled.
    """
    instance("guide", guide, nn.Module)
    if prior is not None:
        check_prior(prior)
    boolean("gather_draws", gather_draws)
    whole_tensors = [
        tensor
        for part in guide.modules()
        if isinstance(part, Guide)
        for tensor in part.whole_tensors()
    ]
    modules = [*guide.modules(), *([] if prior is None else prior.modules())]
    models = list(dict.fromkeys(part for part in modules if isinstance(part, LanguageModel)))
    if not models:
        raise ValueError(
            f"{type(guide).__name__} has no network to shard, expected a guide that reads with one "
            "or a prior"
        )
    if any(part.compile_decode for part in models):
        raise ValueError(
            "the decode is compiled, which a network whose layers come and go cannot be: leave "
            "compile_decode out"
        )
    models.sort(key=lambda part: not any(p.requires_grad for p in part.parameters()))
    place = models[0].device if device is None else named_device(device)
    shard_networks([part.network for part in models], whole_tensors, device=place)
    for part in models:
        part.in_step, part.gathers_draws = True, gather_draws
    for module in modules:
        move(module, place)
