"""Align a language model in plain Pyro, and measure the distance to the posterior.

python -m experiments.minimal
"""

import pyro
from pyro.infer import SVI, Trace_ELBO

from guides import FineTuned
from inference import Enumeration
from model import Prompts, TextReward, grammar_prior, vader_sentiment


def main(num_steps: int = 100) -> None:
    pyro.set_rng_seed(0)
    prior = grammar_prior(max_new_tokens=3)  # 820 responses: every distance is an exact sum
    prompts = prior.encode(["the film was", "the plot was"])
    reward, beta = TextReward(vader_sentiment, prior), 0.3

    def model(prompts: Prompts) -> None:
        with pyro.plate("prompts", len(prompts)):
            response = pyro.sample("response", prior(prompts))  # p0(x)
            pyro.factor("reward", reward(prompts, response) / beta)  # exp(r(x)/beta)

    guide = FineTuned(prior)  # q(x), equal to p0(x) at the start
    # inference.LeaveOneOut_ELBO(64) is the same gradient with less variance
    objective = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), objective)

    posterior = Enumeration(model, prompts)
    print(f"log Z {posterior.log_z.mean():.3f} nats")
    for step in range(num_steps + 1):
        if step % 10 == 0:
            elbo, kl = posterior.elbo(guide).mean(), posterior.kl_guide_posterior(guide).mean()
            print(f"step {step:3}  ELBO {elbo:.3f}  KL(q || p*) {kl:.3f} nats")
        svi.step(prompts)


if __name__ == "__main__":
    main()
