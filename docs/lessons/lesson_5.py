import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="5. Guides: approximation gap and optimisation gap")

with app.setup:
    import marimo as mo
    import torch
    from classroom import About, bars, checked, grammar_world, near, numbers, table

    from inference import fit


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 5. Guides: two gaps

    **Claim.** The distance KL(q || p\*) after training has two parts with different cures.

        log Z - ELBO = approximation gap + optimisation gap

    - **Approximation gap**: the distance of the best member of the family. The cure is a richer
      family.
    - **Optimisation gap**: the rest, left by noisy gradients and too few steps. The cure is a
      better algorithm, or more of it.

    One guide for many prompts has a third, the amortisation gap: a guide for each prompt alone may
    be nearer (Cremer, Li and Duvenaud 2018). Here is one prompt.

    On this world both are computed. The best member is found by the exact gradient over all 820
    responses. Training uses draws, as it must for a large model.
    """)
    return


@app.cell
def _():
    beta = 0.3
    world = grammar_world()
    truth = world.truth(beta)
    families = {
        "mean-field": "the words are independent of each other",
        "n-gram": "a word depends on the word before",
        "tabular": "a word depends on all words before: autoregressive",
    }
    return beta, families, truth, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: the approximation gap

    The posterior likes "good", "very good" and "not bad", and dislikes "bad" and "not good".
    Which family can say "not bad" often and "bad" seldom? Order the three by their gap.
    """)
    return


@app.cell
def _(beta, families, truth, world):
    best = {name: world.best_guide(name, beta) for name in families}
    approximation_gap = {
        name: truth.kl_guide_posterior(guide)[0].item() for name, guide in best.items()
    }
    seen = {"mean-field": 0.7149, "n-gram": 0.0938, "tabular": 0.0}
    table(
        ["family", "assumption", "parameters", "approximation gap, nats", "expected output"],
        *(
            [name, families[name], guide.num_trained_parameters(), approximation_gap[name], gap]
            for (name, guide), gap in zip(best.items(), seen.values(), strict=True)
        ),
    )
    return approximation_gap, best


@app.cell
def _(best, truth, world):
    bars(
        world.texts,
        {
            "posterior": truth.log_posterior.exp(),
            "best mean field": truth.log_guide(best["mean-field"]).exp(),
            "best n-gram": truth.log_guide(best["n-gram"]).exp(),
        },
        "Independent words settle on sentences of one word",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    With independent words, a guide that says "not bad" and "very good" says "not good" and "very
    bad" too: q(not bad) q(very good) = q(not good) q(very bad). KL(q || p\*) punishes mass where
    the posterior has little, so the best mean field says one word and ends: 95% "good", and the
    posterior's 0.27 of "very good" is lost. This direction of the KL prefers one mode (lesson 6 has
    the other).

    ## Predict, then run: the optimisation gap

    Now train by draws, 64 a step. With few steps, which gap is large? With many?
    """)
    return


@app.cell
def _():
    num_steps = mo.ui.slider(
        10, 150, step=10, value=60, label="number of steps of the training", show_value=True
    )
    mo.hstack([num_steps], justify="start")
    return (num_steps,)


@app.cell
def _(approximation_gap, beta, families, num_steps, truth, world):
    rows, gaps_at_60 = [], {"mean-field": 0.056, "n-gram": 0.037, "tabular": 0.010}
    for name in families:
        guide = world.new_guide(name)
        fit(world.model(beta), guide, world.prompts, num_steps=num_steps.value, progress=False)
        total = truth.kl_guide_posterior(guide)[0].item()
        expected = About(gaps_at_60[name]) if num_steps.value == 60 else ""
        gap = approximation_gap[name]
        rows.append([name, total, gap, total - gap, expected])
    header = ["family", "KL(q || p*), nats", "approximation gap", "optimisation gap"]
    table([*header, "expected output at 60 steps"], *rows)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    For the two poor families more steps stop helping: the approximation gap
    remains. For the rich family the whole distance is optimisation. The tabular guide starts at the
    prior, the two others start from nothing, 10.5 nats away.

    ## Exercise 1: which cure?

    Given log Z, the ELBO of the best member of the family and the ELBO that was reached, write
    the function that returns the pair (approximation gap, optimisation gap).
    """)
    return


@app.function(hide_code=True)
def check_gaps(answer):
    pair = numbers(answer(0.84, 0.14, 0.04))
    assert near(pair.sum(), 0.8), "the gaps sum to log Z - ELBO"
    assert near(pair, [0.7, 0.1]), "the best member has no optimisation gap"


@app.cell
def _():
    gaps = None  # write: def gaps(log_z, best_elbo, elbo): ...
    checked(gaps, check_gaps)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: coordinate ascent

    Two words a and b have the log joint table `log_joint[a, b]`. Given q(b), the best q(a) of a
    mean field is proportional to exp(E_q(b)[log_joint[a, b]]). Write that update: it takes the
    table and q(b), and returns q(a).
    """)
    return


@app.function(hide_code=True)
def check_update(answer):
    log_joint = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()

    def elbo(q_a, q_b):
        q = q_a[:, None] * q_b
        return (q * (log_joint - q.log())).sum()

    q_b = torch.full((4,), 0.25).double()
    value = -torch.inf
    for _ in range(20):
        q_a = numbers(answer(log_joint, q_b))
        assert near(q_a.sum(), 1.0), "q(a) is a distribution"
        q_b = numbers(answer(log_joint.T, q_a))
        assert elbo(q_a, q_b) >= value - 1e-6, "the ELBO fell: average log_joint, not joint"
        value = elbo(q_a, q_b)
    q_a = numbers(answer(log_joint, q_b))
    other = 0.9 * q_a + 0.1 / 3
    assert elbo(other, q_b) < elbo(q_a, q_b), "this q(a) is not the best"


@app.cell
def _():
    update = None  # write: def update(log_joint, q_b): ...
    checked(update, check_update)
    return


if __name__ == "__main__":
    app.run()
