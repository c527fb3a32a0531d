"""Objective of each implementation of the KL penalty, by enumeration."""

from experiments.kl_estimators import IMPLEMENTATIONS, KLEstimators, main

MATCHES = {
    "k1 in the reward, returns-to-go (RLHF's PPO)": "KL(q || p0)",
    "k1 in the reward, its own token only": "KL(q || p0) by position",
    "k1 as a loss, token by token": None,
    "k2 as a loss, token by token": "KL(q || p0) by position",
    "k2 as a loss, whole response": "KL(q || p0)",
    "k3 as a loss, token by token (GRPO)": "KL(p0 || q) by position",
    "k3 as a loss, whole response": "KL(p0 || q)",
    "k3 in the reward, returns-to-go": None,
}


def test_each_implementation_has_the_gradient_of_its_objective(capsys):
    distances = main(KLEstimators())
    assert MATCHES.keys() == IMPLEMENTATIONS.keys() == distances.keys()
    for name, row in distances.items():
        for objective, distance in row.items():
            if objective != "size":
                assert (distance < 1e-10) == (objective == MATCHES[name]), (name, objective)
    assert distances["k1 as a loss, token by token"]["size"] < 1e-10
    assert "GRPO" in capsys.readouterr().out
