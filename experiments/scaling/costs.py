"""Memory, arithmetic, bytes and network of a step on one GPU, by formula: nothing is run."""

import math
from dataclasses import dataclass

ACTIVATIONS = 79
"""Bytes of activations for each token, layer and unit of width, with LoRA in bfloat16. Measured on
SmolLM2-135M: 1.4 GB for a response of 1,024 tokens, through 30 layers of width 576."""
CHECKPOINTED = 0.21
"""Share of the activations with checkpoints of layers. Measured beside: 0.3 GB of 1.4 GB."""
LIGHT = 4
"""Number of responses without gradient that are read in the place of one with gradient."""
SIZED = 32
"""Largest number of responses on which the size of a step is measured."""


@dataclass(frozen=True)
class Network:
    """Shape of a decoder of the Llama family, in bfloat16."""

    layers: int
    width: int
    kv_width: int
    inner: int
    vocab: int

    @property
    def layer(self) -> int:
        """Number of weights of a layer: attention, three matrices of the MLP, two norms."""
        attention = 2 * self.width**2 + 2 * self.width * self.kv_width
        return attention + 3 * self.width * self.inner + 2 * self.width

    @property
    def weights(self) -> int:
        """Number of weights, with embeddings and output layer."""
        return self.layers * self.layer + 2 * self.vocab * self.width + self.width

    @property
    def cache(self) -> int:
        """Bytes of keys and values of a token."""
        return 2 * 2 * self.layers * self.kv_width

    def adapter(self, rank: int) -> int:
        """Number of weights of LoRA on all linear layers."""
        square, narrow = 2 * self.width, self.width + self.kv_width
        wide = self.width + self.inner
        return self.layers * rank * (2 * square + 2 * narrow + 3 * wide)

    def forward(self, context: float) -> float:
        """Arithmetic of a forward pass, floating-point operations a token."""
        matrices = self.layers * (self.layer - 2 * self.width) + self.vocab * self.width
        return 2 * matrices + 4 * self.layers * self.width * context


NETWORKS = {
    "8b": Network(layers=32, width=4096, kv_width=1024, inner=14336, vocab=128256),
    "70b": Network(layers=80, width=8192, kv_width=1024, inner=28672, vocab=128256),
}
"""Shapes by name, those of Llama 3."""


@dataclass(frozen=True)
class Machine:
    """Rated speeds of one GPU, an H100 SXM by default."""

    flops: float = 989e12  # bfloat16, dense
    bandwidth: float = 3.35e12  # bytes a second, of its memory
    link: float = 450e9  # bytes a second, to the other GPUs in one direction (NVLink 4)


@dataclass(frozen=True)
class Step:
    """A step of a guide, on several GPUs.

    Attributes:
        gpus: R, number of GPUs.
        responses: number of responses of the step on all GPUs.
        prompt, length: number of tokens of a prompt and of a response.
        micro_batch: number of responses of a GPU with gradient at a time.
        rank: rank of LoRA; 0 for a guide all of whose weights train, in float32.
        sharded: True if guide and prior are sharded.
        gathers_draws: True if a sharded guide is gathered once for a draw.
    """

    network: Network
    gpus: int
    responses: int
    prompt: int
    length: int
    micro_batch: int
    rank: int
    sharded: bool
    gathers_draws: bool = False

    @property
    def own(self) -> int:
        """Number of responses of a GPU."""
        return math.ceil(self.responses / self.gpus)

    @property
    def trained(self) -> int:
        """Number of trained weights."""
        return self.network.adapter(self.rank) if self.rank else self.network.weights

    def memory(self) -> dict[str, float]:
        """Bytes of one GPU, by part, and their peak: draw and scores are not at the same time."""
        net, part, held = self.network, self.gpus if self.sharded else 1, self._parts
        tokens, size = self.prompt + self.length, 2 if self.rank else 4
        pair = 2 * size * max(net.layer, net.vocab * net.width) if self.sharded else 0
        for_draw = size * net.weights if self.gathers_draws else pair
        activations = net.layers * net.width * ACTIVATIONS * CHECKPOINTED
        lasting = {
            "prior, bfloat16": 2 * net.weights / part,
            "trained weights, float32": 4 * self.trained / held,
            "gradient": 4 * self.trained / held,
            "Adam's moments": 8 * self.trained / held,
            "copy to undo a step": 12 * self.trained / held,
            "copy of the best step": 4 * self.trained / held,
        }
        draw = {"draw: gathered": for_draw, "draw: keys and values": self.own * tokens * net.cache}
        held_responses = min(self.micro_batch, self.own) * tokens * activations
        score = {
            "score: two layers gathered": pair,
            "score: activations of a micro-batch": held_responses,
        }
        peak = sum(lasting.values()) + max(sum(draw.values()), sum(score.values()))
        return lasting | draw | score | {"peak": peak}

    def seconds(self, machine: Machine) -> dict[str, tuple[float, float, float]]:
        """Seconds of arithmetic, memory and network of one GPU at rated speeds, by phase."""
        net = self.network
        tokens, context = self.own * self.length, self.prompt + self.length / 2
        forward = tokens * net.forward(context)
        prior, guide = 2 * net.weights, (2 if self.rank else 4) * net.weights
        light, passes = (math.ceil(self.own / size) for size in self._chunks)
        # without gradient; forward, again for the checkpoints of layers, backward
        share = 1 + 1 + 1 + (1 if self.rank else 2)
        reduced = 0 if self.rank else passes * 4 * net.weights
        sized = min(SIZED, self.responses) / self.responses
        exchanged = 2 * 4 * self.trained if self.rank or not self.sharded else 0

        def phase(flops: float, read: float, sent: float) -> tuple[float, float, float]:
            away = (self.gpus - 1) / self.gpus
            return flops / machine.flops, read / machine.bandwidth, away * sent / machine.link

        def gathered(size: float) -> float:
            return size if self.sharded else 0

        num_gathers = 1 if self.gathers_draws else self.length
        cache = self.own * context * net.cache
        draw = self.length * (guide + cache)
        return {
            "draw": phase(forward, draw, gathered(num_gathers * guide)),
            "score by the prior": phase(forward, light * prior, gathered(light * prior)),
            "score by the guide": phase(
                share * forward,
                (light + 3 * passes) * guide,
                gathered((light + 2 * passes) * guide) + reduced,
            ),
            "gradient and update": phase(0, 60 * self.trained / self._parts, exchanged),
            "size of the step": phase(sized * forward, guide, gathered(guide)),
        }

    @property
    def _chunks(self) -> tuple[int, int]:
        """Number of responses in a pass without and with gradient."""
        return LIGHT * self.micro_batch, self.micro_batch

    @property
    def _parts(self) -> int:
        return self.gpus if self.sharded and not self.rank else 1
