"""Model card of a saved guide, in the format of the Hugging Face hub: YAML, then Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.common.texts import table_cell

CARD = "README.md"
MOST_PROMPTS = 5  # largest number of prompts that a card quotes
TAGS = ("elbo-rl", "pyro", "variational-inference", "alignment")
CARD_TEXT = """---
{base}library_name: {library}
pipeline_tag: text-generation
tags:
{tags}
---

# {title}

q, a variational approximation of the posterior
p*(x) = p0(x) exp(r(x)/beta) prod_j f_j(x) / Z: the prior p0 is a language model,
r a reward, f_j are factors. Numbers are in nats per response, with standard
errors, means over prompts.

| | |
|---|---|
{rows}

## How to load the guide

```python
{code}
```
{other_format}"""
GUIDE_CODE = """from guides.saved import load_guide
from model.prior.named_priors import load_prior

prior = {prior}
guide = load_guide({folder!r}, prior)
prompts = prior.encode([{prompt!r}])
response = guide.distribution(prompts).sample((4,))  # [4, 1, T]
print(prior.decode(response, prompts))"""
NETWORK_CODE = """from model import LanguageModel

guide = LanguageModel.from_pretrained({folder!r}{options})
prompts = guide.encode([{prompt!r}])
response = guide(prompts).sample((4,))  # [4, 1, T]
print(guide.decode(response, prompts))"""
TRANSFORMERS = """
The folder is also a checkpoint of `transformers`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

network = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

By its settings, `network.generate` draws from the guide.
"""
PEFT = """
The folder is also an adapter of `peft`: `PeftModel.from_pretrained(NETWORK, "{folder}")`, where
NETWORK is the network of the base. `generate` has the settings of the base, which may leave tokens
out. To draw from the guide, pass values that leave no token out for all that
`generation_config.json` of the base sets, and the temperature of the prior:

```
do_sample=True, top_k=0, top_p=1.0, repetition_penalty=1.0, temperature={temperature}
```
"""
OTHER_FORMATS = {"transformers": TRANSFORMERS, "peft": PEFT}
"""Section about the format of a library, by the name of the library."""


@dataclass(frozen=True)
class ModelCard:
    """Facts of a model card.

    Attributes:
        title: one line.
        prior: name of the prior for `load_prior`; empty if unknown.
        base: name of the prior on the hub, if the prior is there.
        loading: arguments of `load_prior` beside the name.
        facts: rows of the table, by name: reward, factors, beta, measurements and others.
        versions: versions of packages.
    """

    title: str = "A guide of elbo-rl"
    prior: str = ""
    base: str = ""
    loading: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def text(
        self,
        name: str,
        library: str,
        prompts: Sequence[Any],
        folder: str,
        *,
        is_network: bool = False,
    ) -> str:
        """The card of a guide.

        Args:
            name: name of the family.
            library: name of the library whose format the files have.
            prompts: the prompts, each a text or the messages of a chat.
            folder: name of the folder, for the code that loads the guide.
            is_network: True for a network that is the guide merged with the prior.
        """
        base = self.base or self.prior
        options = "".join(f", {key}={value!r}" for key, value in self.loading.items())
        prior = f"load_prior({self.prior!r}{options})" if self.prior else "...  # p0 of the guide"
        code = NETWORK_CODE if is_network else GUIDE_CODE
        rows = self._rows(name, prompts).items()
        return CARD_TEXT.format(
            base=f"base_model: {json.dumps(base, ensure_ascii=False)}\n" if base else "",
            library=json.dumps(library),
            tags="\n".join(f"- {json.dumps(tag)}" for tag in [*TAGS, name]),
            title=self.title,
            rows="\n".join(f"| {table_cell(key)} | {table_cell(value)} |" for key, value in rows),
            code=code.format(prior=prior, folder=folder, prompt=prompts[0], options=options),
            other_format=OTHER_FORMATS.get(library, "").format(
                folder=folder, temperature=self.loading.get("temperature", "...")
            ),
        )

    def _rows(self, name: str, prompts: Sequence[Any]) -> dict[str, str]:
        quoted = [json.dumps(text, ensure_ascii=False) for text in prompts[:MOST_PROMPTS]]
        more = len(prompts) - len(quoted)
        listed = ", ".join(quoted) + (f" and {more} more" if more else "")
        versions = ", ".join(f"{package} {number}" for package, number in self.versions.items())
        rows = {"guide q": name, "prior p0": self.prior, **self.facts}
        rows |= {f"prompts ({len(prompts)})": listed, "versions": versions}
        return {key: value for key, value in rows.items() if value}
