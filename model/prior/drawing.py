"""Draw a batch of responses, by chunks and by ranks; `Decode` holds the draws."""

import torch
from torch import Tensor

from model.prior.batch import Batch, OfOwn
from model.prior.chunks import parts
from model.prior.decode import Decode, Prefix


def draw(batch: Batch, prefix: Prefix | None = None) -> Decode:
    """The finished decode of the B responses of a batch, whose first tokens may be given."""
    rows = batch.rows
    decode = Decode(batch.decoder, batch.space, batch.temperature, rows, prefix)
    every = torch.arange(len(rows), device=rows.device)
    if batch.division is None:
        _run(decode, batch, every)
    else:

        def run_own(part: Batch, own: OfOwn) -> tuple[Tensor, ...]:
            _run(decode, part, own(every))
            return own(decode.response), own(decode.log_prob)

        decode.response, decode.log_prob = batch.by_ranks(run_own)
    decode.finish()
    return decode


def _run(decode: Decode, batch: Batch, places: Tensor) -> None:
    """Draw the B' responses of a batch, at `places` `[B']` of a decode."""
    decoder = batch.decoder
    with decoder.drawing():
        for chunk, part in parts(batch, [batch.space.max_new_tokens] * len(batch.rows)):
            first, state = part.read_prompts()
            active = places if chunk is None else places[chunk]
            if decoder.compile_decode:
                decode.run_compiled(first, state, part.rows, active)
            else:
                with decoder.decoding(batch.space.max_new_tokens):
                    decode.run(first[part.rows], state.select(part.rows), active)
