"""The enumerable world: a grammar of short verdicts, and a small language model trained on it.

    the (film | plot) was [not] [very] (good | bad | dull)

After "the film was" every response of at most four tokens can be listed: the posterior, log Z and
every divergence are exact sums. The prior is a GPT-2 behind `LanguageModel`, like any other prior.

`untrained_prior` is a GPT-2 as small, with random weights, over numbered words.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from functools import cache

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from model.common import checks
from model.common.checks import instance, whole_number
from model.networks.text_network import padded
from model.prior.language_model import LanguageModel

END = "<end>"
WORDS = (END, "the", "film", "plot", "was", "not", "very", "good", "bad", "dull")
SUBJECTS = {"film": 0.6, "plot": 0.4}
ADVERBS = {"": 0.5, "very": 0.25, "not": 0.15, "not very": 0.1}
ADJECTIVES = {
    "film": {"good": 0.5, "bad": 0.3, "dull": 0.2},
    "plot": {"good": 0.2, "bad": 0.3, "dull": 0.5},
}
PROMPTS = ("the film was", "the plot was")
SIZES = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
"""Settings of the GPT-2."""
SPECIAL_TOKENS = {"bos_token": END, "eos_token": END, "pad_token": END}
"""Settings of the tokenizers."""


def grammar_sentences(
    adverbs: Mapping[str, float] = ADVERBS,
    adjectives: Mapping[str, Mapping[str, float]] = ADJECTIVES,
) -> dict[str, float]:
    """Every sentence of the grammar with its probability; by default 24 sentences.

    Args:
        adverbs: probability of each adverb, "" for none.
        adjectives: probability of each adjective, by subject.
    """
    probabilities = {}
    for subject, adverb in itertools.product(SUBJECTS, adverbs):
        for adjective, p_adjective in adjectives[subject].items():
            text = " ".join(f"the {subject} was {adverb} {adjective}".split())
            probabilities[text] = SUBJECTS[subject] * adverbs[adverb] * p_adjective
    return probabilities


def word_tokenizer(words: Sequence[str], **settings: str) -> PreTrainedTokenizerFast:
    """Tokenizer of whole words, the first for unknown words, with settings of the class."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def numbered_words(size: int, **settings: str) -> PreTrainedTokenizerFast:
    """Tokenizer of `size` words, `<end>` (token id 0), w1, w2, ..., with settings of the class."""
    return word_tokenizer([END, *(f"w{i}" for i in range(1, size))], **settings)


def grammar_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A tokenizer with one id a word. `<end>` is beginning, end and padding, as in GPT-2."""
    tokenizer = word_tokenizer(words, **SPECIAL_TOKENS)
    processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


def grammar_prior(
    max_new_tokens: int = 4,
    *,
    sentences: Mapping[str, float] | None = None,
    words: Sequence[str] = WORDS,
    steps: int = 100,
    seed: int = 0,
) -> LanguageModel:
    """Train the prior of the enumerable world: GPT-2, 2 layers, width 32, float64.

    Args:
        max_new_tokens: T, the most tokens of a response; at 4 a prompt has 7,381 responses.
        sentences: training sentences of `words` with their probabilities; default
            `grammar_sentences()`.
        words: the vocabulary, `<end>` first.
        steps: number of Adam steps on the exact cross-entropy.
        seed: random seed of the initial weights. Torch's own generator stays as it was.

    A second call with the same arguments copies the network of the first.
    """
    steps = whole_number("steps", steps, at_least=0, at_most=10**6)
    seed = checks.seed("seed", seed)
    sentences = grammar_sentences() if sentences is None else sentences
    if not instance("sentences", sentences, Mapping):  # type: ignore[type-abstract]
        raise ValueError("sentences is empty, expected sentences with their probabilities")
    for text, probability in sentences.items():
        checks.probability(f"the probability of {instance('a sentence', text, str)!r}", probability)
    instance("words", words, Sequence)  # type: ignore[type-abstract]
    if unknown := {word for text in sentences for word in text.split()} - {*words}:
        raise ValueError(f"a sentence has the word {min(unknown)!r}, expected words of `words`")
    network = copy.deepcopy(_network(tuple(sentences.items()), tuple(words), steps, seed))
    return LanguageModel(network, grammar_tokenizer(words), max_new_tokens=max_new_tokens)


def untrained_prior(
    vocab_size: int, max_new_tokens: int, *, initializer_range: float, seed: int
) -> LanguageModel:
    """A GPT-2 with two layers and random weights of standard deviation `initializer_range`.

    The vocabulary, `vocab_size` numbered words, includes the end of a response.
    """
    sizes = {"vocab_size": vocab_size, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, initializer_range=initializer_range, **SPECIAL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.GPT2LMHeadModel(config)
    tokenizer = numbered_words(vocab_size, **SPECIAL_TOKENS)
    return LanguageModel(network, tokenizer, max_new_tokens=max_new_tokens)


@cache
def _network(
    sentences: tuple[tuple[str, float], ...], words: tuple[str, ...], steps: int, seed: int
) -> "transformers.GPT2LMHeadModel":
    """The network, trained on sentences with their probabilities."""
    tokenizer = grammar_tokenizer(words)
    texts, probabilities = zip(*sentences, strict=True)
    ids, mask = padded([[*tokenizer(text)["input_ids"], 0] for text in texts], pad_id=0)
    weight = torch.tensor(probabilities, dtype=torch.float64)[:, None] * mask[:, 1:]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        sizes = {**SIZES, "vocab_size": len(words)}
        config = transformers.GPT2Config(**sizes, **DROPOUT, **SPECIAL, initializer_range=0.2)
        network = transformers.GPT2LMHeadModel(config).double()
        optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(steps):
            logits = network(ids[:, :-1], attention_mask=torch.ones_like(ids[:, :-1])).logits
            nats = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            optimiser.zero_grad()
            (nats * weight).sum().backward()
            optimiser.step()
    return network
