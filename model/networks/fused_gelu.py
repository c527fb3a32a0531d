"""The GELU of GPT-2 in one kernel, where `transformers` runs eight.

    gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))     Hendrycks and Gimpel 2016

The gradient needs x alone, where autograd keeps five other tensors. In half precision the result is
rounded once, where each of the eight kernels rounds.
"""

from torch import Tensor, nn
from torch.nn.functional import gelu


class FusedGELU(nn.Module):
    """`NewGELUActivation` of `transformers`, up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x, approximate="tanh")


def fused_gelu(network: nn.Module) -> None:
    """Make the layers `NewGELUActivation` of a network `FusedGELU`, in place."""
    from transformers.activations import NewGELUActivation  # takes a second without a network

    for module in network.modules():
        if type(module) is NewGELUActivation:
            module.__class__ = FusedGELU
