"""A progress bar for a loop over draws, which a large model makes long."""

from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from typing import TypeVar

from tqdm import tqdm

from model.common import ranks

SILENT = 3.0
"""Number of seconds before a bar appears: short loops stay silent."""
Chunk = TypeVar("Chunk")


def counted(name: str, chunks: Sequence[Chunk], sizes: Sequence[int]) -> Iterator[Chunk]:
    """Yield chunks, behind a bar of the draws that are done, which disappears at the end.

    A worker of `multiprocessing`, and any rank but the first, shows no bar.

    Args:
        name: name of the bar.
        chunks: chunks of draws.
        sizes: number of draws of each chunk, for each prompt.
    """
    hidden = not ranks.is_first() or parent_process() is not None
    with tqdm(
        None, name, sum(sizes), leave=False, unit="draw", delay=SILENT, disable=hidden
    ) as bar:
        for chunk, size in zip(chunks, sizes, strict=True):
            yield chunk
            bar.update(size)
