import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="0. The whole way: from Bayes' rule to a trained model")

with app.setup:
    import marimo as mo
    import pyro
    import torch
    from classroom import About, bars, checked, curves, grammar_world, near, number, table

    from guides import FineTuned
    from inference import diagnose
    from model import AlignmentModel, TextReward, vader_sentiment
    from model.prior.named_priors import load_prior


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 0. The whole way: from Bayes' rule to a trained model

    **Claim.** Four short functions of plain torch lead from Bayes' rule to a trained language
    model: the posterior, the ELBO, the loss of RLOO, and a loop. The loop that is exact to check
    on nine words trains a model of film reviews without a change.

    Lessons 1 to 9 take the steps apart. Every cell can be changed: begin with the reward, and watch
    all that follows.

    ## 1. A reward, and what it is worth

    The reward r reads a text. Beta is the reward that is worth one nat, the unit of natural
    logarithms.
    """)
    return


@app.cell
def _():
    def score(texts):
        """Reward of each text. For example: [float("not" in text) for text in texts]."""
        return [vader_sentiment([text])[0] for text in texts]

    return (score,)


@app.cell
def _():
    beta = mo.ui.dropdown([0.1, 0.3, 1.0], value=0.3, label="beta")
    mo.hstack([beta], justify="start")
    return (beta,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 2. Bayes' rule

    The prior is the language model, exp(r / beta) is the likelihood of "this text is good", and
    the posterior is their product over Z, the sum of the products.

        log p*(x) = log p0(x) + r(x) / beta - log Z
    """)
    return


@app.cell
def _(beta, score):
    def posterior(log_prior, reward, beta):
        """log p* and log Z, from log p0 and r of all responses."""
        log_joint = log_prior + reward / beta
        log_z = log_joint.logsumexp(0)
        return log_joint - log_z, log_z

    world = grammar_world()
    small_reward = TextReward(score, world.prior)
    log_prior = world.prior(world.prompts).log_prob(world.support)[:, 0].detach().double()  # [820]
    r = small_reward(world.prompts, world.support)[:, 0].double()
    log_posterior, log_z = posterior(log_prior, r, beta.value)
    bars(
        world.texts,
        {"prior": log_prior.exp(), "posterior": log_posterior.exp()},
        f"Bayes' rule on 820 responses: log Z = {log_z:.3f} nats",
    )
    return log_posterior, log_prior, log_z, r, small_reward, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 3. The ELBO

    A language model q that is trained stands between the two. By Jensen's inequality the mean of
    the logarithm is below the logarithm of the mean:

        log Z = log E_q[w(x)] >= E_q[log w(x)] = ELBO,    w(x) = p0(x) exp(r(x) / beta) / q(x)

    The difference is KL(q || p\*): put w(x) = Z p\*(x) / q(x) into the mean. Predict for q = p0 and
    for q = p\*: which ELBO, which difference?
    """)
    return


@app.cell
def _(beta, log_posterior, log_prior, log_z, r):
    def elbo(log_guide, log_prior, reward, beta):
        """E_q[log p0 + r / beta - log q], from the numbers of all responses."""
        return (log_guide.exp() * (log_prior + reward / beta - log_guide)).sum()

    def kl_posterior(log_guide):
        """KL(q || p*), from the numbers of all responses."""
        return (log_guide.exp() * (log_guide - log_posterior)).sum()

    halfway = ((log_prior + log_posterior) / 2).log_softmax(0)
    table(
        ["q", "ELBO", "log Z - ELBO", "KL(q || p*)"],
        *(
            [name, value, log_z - value, kl_posterior(log_guide)]
            for name, log_guide in (("p0", log_prior), ("halfway", halfway), ("p*", log_posterior))
            for value in [elbo(log_guide, log_prior, r, beta.value)]
        ),
    )
    return (kl_posterior,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 4. The gradient from draws: RLOO

    A sum over all responses exists in a world of nine words only. A mean over draws x_1 .. x_K of q
    exists everywhere. Draws have no gradient, therefore the gradient is taken of log q:

        grad E_q[log w] = E_q[log w grad log q] + E_q[grad log w]

    The last term is -E_q[grad log q] = -grad 1 = 0. For the same reason a number that does not
    depend on x_k may be subtracted from log w(x_k). RLOO (REINFORCE, leave one out) subtracts the
    mean of the other K - 1.
    The loss has minus this gradient; the weights are numbers, without a gradient of their own.
    """)
    return


@app.cell
def _():
    def rloo(log_guide, log_weight):
        """Loss whose gradient is an unbiased estimate of -grad ELBO; K draws in front."""
        log_weight = log_weight.detach()
        others = (log_weight.sum(0) - log_weight) / (len(log_weight) - 1)
        return -((log_weight - others) * log_guide).mean(0).sum()

    return (rloo,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 5. The loop

    Draw, weigh, step. Sketch the ELBO over the steps before you run.
    """)
    return


@app.cell
def _(rloo):
    def train(prior, prompts, reward, beta, num_steps, rate, num_draws=64, loss=rloo):
        """Train a copy of the prior; return the copy, and the ELBO of each step, from its draws."""
        pyro.set_rng_seed(0)
        guide, elbos = FineTuned(prior), []
        adam = torch.optim.Adam(guide.parameters(), lr=rate)
        for _ in range(num_steps):
            q = guide.distribution(prompts)
            draws = q.sample((num_draws,))  # [K, 1, T]
            log_guide = q.log_prob(draws)  # [K, 1], with gradient
            with torch.no_grad():
                log_joint = prior(prompts).log_prob(draws) + reward(prompts, draws) / beta
            log_weight = log_joint - log_guide.detach()
            adam.zero_grad()
            loss(log_guide, log_weight).backward()
            adam.step()
            elbos.append(log_weight.mean().item())
        return guide, elbos

    return (train,)


@app.cell
def _(beta, kl_posterior, log_prior, log_z, r, small_reward, train, world):
    steps = 80
    guide, elbos = train(world.prior, world.prompts, small_reward, beta.value, steps, rate=1e-3)
    log_guide = guide.distribution(world.prompts).log_prob(world.support)[:, 0].detach().double()
    mo.vstack(
        [
            curves(
                range(steps),
                {"ELBO from 64 draws": elbos, "log Z": [log_z.item()] * steps},
                xlabel="step",
                ylabel="nats",
                title="The loop climbs to log Z",
            ),
            table(
                ["quantity", "value", "expected output at beta 0.3"],
                ["log Z, nats", log_z, 0.8409],
                ["KL(p0 || p*), nats", kl_posterior(log_prior), 0.8793],
                ["KL(q || p*), nats", kl_posterior(log_guide), About(0.02)],
                ["E_q[r]", (log_guide.exp() * r).sum(), About(0.41)],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## 6. A language model

    The same loop, on the model of film reviews: a vocabulary of thousands, responses of 8 tokens,
    no list of responses. Only the rate of Adam differs. Predict: how far from p\* is the guide
    after 20 steps at three times the rate, and at ten times? Then try 60 steps.
    """)
    return


@app.cell
def _():
    num_steps = mo.ui.slider(0, 60, step=20, value=20, label="steps", show_value=True)
    rate = mo.ui.dropdown([3e-5, 1e-4, 3e-4], value=3e-5, label="rate of Adam")
    mo.hstack([num_steps, rate], justify="start")
    return num_steps, rate


@app.cell
def _(beta, num_steps, rate, score, train):
    large = load_prior("film-reviews", max_new_tokens=8, temperature=0.7)
    prompts = large.encode(["The film was"])
    reward = TextReward(score, large)
    trained, _ = train(large, prompts, reward, beta.value, num_steps.value, rate.value)
    pyro.set_rng_seed(1)
    before = large.decode(large(prompts).sample((6,)))
    after = large.decode(trained.distribution(prompts).sample((6,)))
    table(
        ["The film was ... (prior)", "The film was ... (guide)"],
        *([row[0], trained_row[0]] for row, trained_row in zip(before, after, strict=True)),
    )
    return large, prompts, reward, trained


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    How far is the guide from its posterior? log Z is estimated from draws of prior and guide
    (lesson 7); the distance is log Z minus the ELBO, with a standard error.
    """)
    return


@app.cell
def _(beta, large, prompts, reward, trained):
    model = AlignmentModel(large, reward, beta.value)
    numbers = diagnose(model, trained, prompts, num_samples=512, num_prior_draws=512)
    table(
        ["nats", "value", "standard error", "reason to distrust it"],
        *(
            [name, *getattr(numbers, key), "; ".join(numbers.warnings_of(key))]
            for name, key in (
                ("ELBO", "elbo"),
                ("log Z", "log_z"),
                ("KL(q || p*)", "kl_guide_posterior"),
                ("KL(q || p0)", "kl_guide_prior"),
            )
        ),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Expected output, KL(q || p\*) at beta 0.3, each ± 0.03 or more:

    | rate | start | 20 steps | 60 steps |
    |---|---|---|---|
    | 3e-5 | 0.62 | 0.30 | 0.22 |
    | 1e-4 | 0.62 | 0.54 | 0.35 |
    | 3e-4 | 0.62 | 1.46 | 1.39 |

    A large rate leaves the prior faster than 64 draws can tell where to go, and ends further from
    p\* than it began. The library's `fit` is this loop with Pyro's SVI and `LeaveOneOut_ELBO` as
    the loss. In place of a rate its steps have a size in nats, for every model.

    ## Exercise 1: the reward of RLHF

    A trainer of RLHF knows no log w. It has "the reward with the KL in it", in units of reward:
    r(x) - beta (log q(x) - log p0(x)). Write log w from this reward and beta.
    """)
    return


@app.function(hide_code=True)
def check_weight(answer):
    log_prior, log_guide = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -0.5])
    for some_beta in (0.1, 0.5):
        some_r = torch.tensor([0.2, -1.0])
        with_kl = some_r - some_beta * (log_guide - log_prior)
        expected = log_prior + some_r / some_beta - log_guide
        value = answer(with_kl, some_beta)
        assert near(value, expected, atol=1e-5), f"{value}, expected {expected}"


@app.cell
def _():
    weight = None  # write: def weight(reward_with_kl, beta): ...
    checked(weight, check_weight)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: another objective, the same loop

    KL(p\* || q) is least where E_p\*[log q] is largest. Draws of q stand for draws of p\* if each
    has the weight w, normalised over the draws. Write the loss, from log q and log w `[K, 1]`;
    then pass it to `train` as `loss=`. The assert uses draws whose frequencies are exactly q, so
    the gradient in the logits has to be exactly q - p\*.
    """)
    return


@app.function(hide_code=True)
def check_forward(answer):
    draws = torch.tensor([0, 1, 1, 2])
    target = torch.tensor([0.5, 0.3, 0.2])  # p*, three responses
    for some_log_z in (0.0, 2.0):
        logits = torch.tensor([0.25, 0.5, 0.25]).log().requires_grad_()
        some_log_q = logits.log_softmax(0)
        log_weight = some_log_z + target.log() - some_log_q  # as it stands, with gradient
        loss = number(answer(some_log_q[draws, None], log_weight[draws, None]))
        assert loss.requires_grad, "the loss has no gradient: a tensor of q"
        loss.backward()
        expected = logits.detach().softmax(0) - target
        assert torch.allclose(logits.grad, expected, atol=1e-6), (
            f"gradient {logits.grad}, expected {expected}: the weights are numbers, of sum 1"
        )


@app.cell
def _():
    forward_kl = None  # write: def forward_kl(log_guide, log_weight): ...
    checked(forward_kl, check_forward)
    return


if __name__ == "__main__":
    app.run()
