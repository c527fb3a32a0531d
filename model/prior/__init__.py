"""The prior: prompts, responses, and the distribution of responses given prompts."""
