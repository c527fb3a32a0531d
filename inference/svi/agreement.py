"""Agreement of the ranks of a fit: the same call on every rank, one lock, the same parameters."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import nn

from inference.programs import Program
from inference.svi.checkpoint.folder import locked
from model import Prompts
from model.common import ranks
from model.common.digests import text_digest


def agree(guide: Program, prompts: Prompts, **numbers: object) -> None:
    """Check that all ranks call `fit` alike, and give a module the first rank's parameters.

    Parameters that do not train are the file's, and are not compared.

    Raises:
        ValueError: if a rank has other prompts, or another number of these.
    """
    facts = {"prompts": text_digest(" ".join(prompts.names()))} | numbers
    for number, others in enumerate(ranks.all_of(facts)):
        for name, value in facts.items():
            if others[name] != value:
                raise ValueError(
                    f"rank {number} calls `fit` with {name} {others[name]!r}, and rank "
                    f"{ranks.rank()} with {value!r}, expected the same on all ranks: the ranks "
                    "of a process group divide the responses of one fit. Call `fit` inside "
                    "`model.common.ranks.alone()` for a fit of one rank"
                )
    if isinstance(guide, nn.Module):
        trained = {name: p for name, p in guide.named_parameters() if p.requires_grad}
        ranks.copy_from_first(trained)


@contextmanager
def locked_by_first(folder: Path | None) -> Iterator[None]:
    """Lock a folder on the first rank, see `locked`. All ranks wait for the lock."""
    with ExitStack() as stack:
        with ranks.failing_together():
            if ranks.is_first():
                stack.enter_context(locked(folder))
        yield
