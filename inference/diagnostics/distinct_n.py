"""Distinct-n, a score of diversity: the share of different runs of n tokens."""

from torch import Tensor

from inference.diagnostics.self_bleu import check_runs


def distinct_n(response: Tensor, is_token: Tensor, n: int) -> float:
    """Number of different runs of n tokens, as a share of all runs (Li et al. 2016).

    Within each prompt's responses, averaged over prompts; 0 if no response has n tokens.

    Args:
        response: `[M, N, T]`, token ids.
        is_token: `[M, N, T]`, True where a position is not padding.
        n: number of tokens in a run.
    """
    n = check_runs(response, is_token, n, at_least=1)
    if response.shape[-1] < n:
        return 0.0
    shares = []
    whole = is_token.unfold(-1, n, 1).all(-1)  # [M, N, T - n + 1]
    for prompt in range(response.shape[1]):
        runs = response[:, prompt].unfold(-1, n, 1)[whole[:, prompt]]
        shares.append(len(runs.unique(dim=0)) / max(1, len(runs)))
    return sum(shares) / len(shares)
