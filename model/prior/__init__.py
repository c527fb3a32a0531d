"""The prior: prompts, responses, and the language model that gives a distribution over responses to prompts."""
