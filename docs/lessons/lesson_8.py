import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="8. The reward is latent")

with app.setup:
    import marimo as mo
    import pyro
    import torch
    from classroom import PROMPT, checked, curves, grammar_world, near, numbers, table

    from experiments.explore.learned import gold as gold_of
    from inference import REWARD_INFERENCE
    from model import AGGREGATIONS, BradleyTerry, Comparisons
    from model.preferences import LinearHead
    from model.preferences.bradley_terry import simulate


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 8. The reward is latent

    **Claim.** Nobody observes a reward. People compare two responses, and the reward is a latent
    variable with a posterior of its own. RLHF is two inferences in a row: first the reward, then
    the response. Over-optimisation, or reward hacking, is right inference for a wrong likelihood.

        theta ~ Normal(0, 2^2),   r(x) = phi(x) . theta
        P(first is preferred) = sigmoid(r(first) - r(second))     Bradley and Terry, 1952

    Here a gold reward exists and draws the preferences: four times the sentiment, and -4 for words
    that are no review, such as "good good good". The learner sees the preferences alone.
    """)
    return


@app.cell
def _():
    world = grammar_world()
    texts = world.texts
    log_prior = world.truth(1.0).log_prior[:, 0]
    gold = torch.tensor(gold_of([f"{PROMPT} {text}" for text in texts])).double()
    words = ("good", "bad", "dull", "very", "not")

    def count_words(text):
        """phi of a text: counts of five words, and of "not" times each adjective."""
        counts = [float(text.split().count(word)) for word in words]
        return counts + [counts[-1] * adjective for adjective in counts[:3]]

    phi = torch.tensor([count_words(text) for text in texts]).double()  # [820, 8]
    return gold, log_prior, phi, texts


@app.cell
def _():
    num_comparisons = mo.ui.dropdown([20, 200, 1000], value=20, label="number of comparisons")
    mo.hstack([num_comparisons], justify="start")
    return (num_comparisons,)


@app.cell
def _(gold, log_prior, num_comparisons, phi):
    pyro.set_rng_seed(0)
    pairs = torch.multinomial(log_prior.exp(), 2 * num_comparisons.value, replacement=True)
    first, second = pairs.chunk(2)
    outcome = simulate(gold[first], gold[second])
    program = BradleyTerry(LinearHead(phi.shape[1]), prior_scale=2.0)
    weights = REWARD_INFERENCE["laplace"](  # a Gaussian at the mode of p(theta given outcomes)
        program, Comparisons(phi[first], phi[second], outcome), num_samples=200
    )
    rewards = program.head(phi, weights)  # [200, 820], a reward for each draw of the weights
    return (rewards,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: an uncertain reward

    After 20 comparisons of prior draws, for which response is the reward most uncertain: "good",
    "not good" or "not not dull"?
    """)
    return


@app.cell
def _(gold, num_comparisons, rewards, texts):
    seen = {"good": 1.3094, "not not dull": 2.6280} if num_comparisons.value == 20 else {}
    table(
        [
            "response",
            "gold reward",
            "posterior mean",
            "posterior standard deviation",
            "expected output at 20 comparisons",
        ],
        *(
            [
                name,
                gold[texts.index(name)],
                rewards[:, texts.index(name)].mean(),
                rewards[:, texts.index(name)].std(),
                seen.get(name, ""),
            ]
            for name in ("good", "not good", "not not dull")
        ),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    A reward is known where the prior puts its draws, and unknown where training is about to go.
    Comparisons see differences alone, and a constant moves no posterior: compare two rows. After
    1,000 comparisons "good" and "not good" are 3.05 apart, in gold 3.13.

    ## Predict, then run: over-optimisation

    The proxy is the posterior mean of the reward. As beta falls, the posterior leaves the prior,
    and the expected proxy rises. Sketch the expected *gold* reward.
    """)
    return


@app.cell
def _(gold, log_prior, num_comparisons, rewards):
    betas = [10 ** (k / 10) for k in range(15, -11, -1)]

    def frontier(aggregation):
        """KL from the prior, expected gold and expected proxy of the posterior at each beta."""
        points = []
        for beta in betas:
            log_posterior = (log_prior + AGGREGATIONS[aggregation](rewards, beta)).log_softmax(0)
            numbers = (log_posterior - log_prior, gold, rewards.mean(0))
            points.append([(log_posterior.exp() * values).sum().item() for values in numbers])
        return points

    nats, golds, proxies = zip(*frontier("mean"), strict=True)
    figure = curves(
        nats,
        {"proxy": proxies, "gold": golds},
        xlabel="KL(p* || p0), nats",
        ylabel="expected reward",
        title="The proxy rises; the gold reward rises, peaks and falls",
    )
    end = table(
        ["at the smallest beta", "value", "expected output at 20 comparisons"],
        ["gold", golds[-1], -4.0],
        ["proxy", proxies[-1], 4.0 if num_comparisons.value == 20 else ""],
    )
    mo.vstack([figure, end])
    return (frontier,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    No step of training failed: every point is an exact posterior. The target is wrong. Try 1,000
    comparisons: all are between draws of the prior, and the end of the curve is where it was.

    ## What to do with uncertainty

    `mean` ignores the uncertainty, `lower-bound` subtracts a standard deviation, and
    `marginal-likelihood` is Bayes' rule: log of the mean of exp(r / beta). Which of the three is an
    optimist? Which reaches the highest gold reward?
    """)
    return


@app.cell
def _(frontier, num_comparisons):
    rows, peaks = [], {"marginal-likelihood": 0.5126, "mean": 1.2092, "lower-bound": 1.6974}
    for name, peak in peaks.items():
        points = frontier(name)
        nats_at_peak, best_gold, _ = max(points, key=lambda point: point[1])
        expected = peak if num_comparisons.value == 20 else ""
        rows.append([name, points[-1][1], nats_at_peak, best_gold, expected])
    header = ["aggregation", "gold at the smallest beta", "KL at the peak of gold, nats"]
    table([*header, "gold at its peak", "expected output at 20 comparisons"], *rows)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The marginal likelihood rewards uncertainty, by half the variance over beta squared for a
    Gaussian reward: the optimist. To observe "this text is good" also moves belief towards rewards
    by which it is. Caution pays: the lower bound reaches the most gold.

    ## Exercise 1: the likelihood of a preference

    Write log P(the first response is preferred) from the rewards of the two responses. DPO trains
    q by this likelihood, with r(x) = beta log q(x) / p0(x).
    """)
    return


@app.function(hide_code=True)
def check_preference(answer):
    first, second = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.0, 0.0, 3.0])
    value = numbers(answer(first, second))
    both = value.exp() + numbers(answer(second, first)).exp()
    assert near(both, torch.ones(3)), "one of the two is preferred: exp of both sums to 1"
    assert value[0] > value[1], "a higher reward is preferred more often"
    expected = torch.tensor([-0.31326, -0.69315, -5.00672])
    assert near(value, expected, atol=1e-4), "the log of a sigmoid"


@app.cell
def _():
    log_preference = None  # write: def log_preference(first, second): ...
    checked(log_preference, check_preference)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: Bayes' rule for a reward with uncertainty

    The likelihood of a response is its posterior predictive, the mean over the posterior of the
    reward. Write its logarithm from S draws of the rewards of M responses, `[S, M]`, and beta.
    """)
    return


@app.cell(hide_code=True)
def _(rewards):
    def check_marginal(answer):
        for beta in (0.3, 2.0):
            exact = AGGREGATIONS["marginal-likelihood"](rewards, beta)
            value = numbers(answer(rewards, beta))
            assert value.shape == exact.shape, f"one number a response, got {tuple(value.shape)}"
            assert near(value, exact), "log of the mean of exp, not mean of the log"

    return (check_marginal,)


@app.cell
def _(check_marginal):
    log_marginal = None  # write: def log_marginal(rewards, beta): ...
    checked(log_marginal, check_marginal)
    return


if __name__ == "__main__":
    app.run()
