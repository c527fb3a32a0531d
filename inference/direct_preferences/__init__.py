# ruff: noqa: F401 - re-exports
"""Direct preferences: DPO and its relatives, a likelihood of preferences with the guide as head."""

from inference.direct_preferences.judgements import (
    Judgements,
    ResponseLabels,
    ResponseLists,
    ResponsePairs,
)
from inference.direct_preferences.likelihoods import (
    LIKELIHOODS,
    bco,
    bradley_terry,
    exo,
    kto,
    margin,
    positive_dpo,
    robust,
    smoothed,
    with_chosen,
)
from inference.direct_preferences.of_batch import robust_mean
from inference.direct_preferences.of_list import OfList, info_nca
from inference.direct_preferences.program import LINKS, PreferenceProgram, alpha_divergence
from inference.direct_preferences.training import fit_preferences
