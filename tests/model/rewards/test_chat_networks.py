"""Reward models with a chat template read the chat by their own template, once begun."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2ForSequenceClassification

from inference import log_likelihood_at
from model import SequenceClassifier, TextLikelihood, TextReward, read_preferences
from model.factors.marginal_likelihood import MARGINAL
from model.preferences import uncertain_model
from tests.model.rewards.test_signatures import QUESTION, TEMPLATE
from tests.model.tokenizers import CHAT, chat, language_model_of

OWN = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ ' <user> ' if message.role == 'user' else ' <assistant> ' }}{{ message.content }} d"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
)
"""Template of the reward models."""
WITHOUT_BEGINNING = OWN.removeprefix("{{ bos_token }}")
RESPONSE = torch.tensor([[[4, 5, 0], [4, 5, 6]], [[6, 0, 0], [7, 7, 0]]])  # [K, N, T]


def tokenizer_of(template):
    """Tokenizer that adds a beginning to a text."""
    tokenizer = chat("<bos> $A", pad_token="<end>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def prior():
    return language_model_of(tokenizer_of(TEMPLATE), max_new_tokens=3, end_ids=[0])


@pytest.fixture(scope="module")
def prompts(prior):
    """A chat and a text."""
    return prior.encode([QUESTION, "a b"])


def network(num_positions=32):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(CHAT), "n_positions": num_positions, "n_embd": 16, "n_layer": 1}
    config = GPT2Config(**sizes, n_head=2, num_labels=1, pad_token_id=1, initializer_range=0.5)
    return GPT2ForSequenceClassification(config).eval()


def messages_of(prior, row):
    answer = prior.decode(row[None, None])[0][0]
    return [*QUESTION, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("template", [OWN, WITHOUT_BEGINNING])
def test_reward_model_reads_the_chat_by_its_own_template(prior, prompts, template):
    tokenizer, judge = tokenizer_of(template), network()
    classifier = SequenceClassifier(judge, tokenizer, output="logit")
    values = TextReward(classifier, prior)(prompts, RESPONSE)
    for k in range(2):
        messages = messages_of(prior, RESPONSE[k, 0])
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert ids.count(CHAT.index("<bos>")) == (template == OWN)
        expected = judge(torch.tensor([ids])).logits[0, 0].item()
        assert values[k, 0].item() == pytest.approx(expected, abs=1e-5)
        text = prior.decode(RESPONSE[k], prompts)[1]
        expected = judge(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, 0].item()
        assert values[k, 1].item() == pytest.approx(expected, abs=1e-5)


def test_end_of_a_long_chat_is_read(prior, prompts):
    judge, tokenizer = network(num_positions=5), tokenizer_of(OWN)
    classifier = SequenceClassifier(judge, tokenizer, output="logit")
    value = TextReward(classifier, prior)(prompts[[0]], RESPONSE[0, [0]]).item()
    messages = messages_of(prior, RESPONSE[0, 0])
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert len(ids) > 5
    assert value == pytest.approx(judge(torch.tensor([ids[-5:]])).logits.item(), abs=1e-5)


def test_likelihood_of_a_chat_is_by_the_template_of_the_other_model(prior, prompts):
    other = language_model_of(tokenizer_of(WITHOUT_BEGINNING), max_new_tokens=3)
    likelihood = TextLikelihood(other.network, other.tokenizer, per_token=False)
    value = TextReward(likelihood, prior)(prompts, RESPONSE)[0, 0].item()
    messages = messages_of(prior, RESPONSE[0, 0])
    ids = torch.tensor(other.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
    logits = other.network(ids[None]).logits[0, :-1].float()
    assert value == pytest.approx(-cross_entropy(logits, ids[1:], reduction="sum").item(), abs=1e-4)


def test_classifier_without_a_template_reads_the_response_alone(prior, prompts):
    tokenizer, judge = tokenizer_of(None), network()
    values = TextReward(SequenceClassifier(judge, tokenizer, output="logit"), prior)(
        prompts, RESPONSE
    )
    alone = TextReward(SequenceClassifier(judge, tokenizer, output="logit"), prior, whole=False)(
        prompts, RESPONSE
    )
    assert values[:, 0].tolist() == pytest.approx(alone[:, 0].tolist(), abs=1e-6)
    assert (values[:, 1] - alone[:, 1]).abs().min() > 1e-3


def test_whole_text_of_a_chat_is_read_on_request(prior, prompts):
    seen = SequenceClassifier(network(), tokenizer_of(OWN), output="logit")
    value = TextReward(seen, prior, whole=True)(prompts, RESPONSE)[0, 0].item()
    text = prior.decode(RESPONSE[0], prompts)[0]
    assert text.startswith("<bos> <user> a b <end> <assistant>")
    assert value == pytest.approx(seen([text]).item(), abs=1e-6)


def test_reward_of_preferences_reads_the_texts_of_the_preferences(prior, prompts):
    answer = prior.decode(RESPONSE[0])[0]
    row = {
        "prompt": QUESTION,
        "chosen": [{"role": "assistant", "content": answer}],
        "rejected": [{"role": "assistant", "content": "c"}],
    }
    (preference,) = read_preferences([row], tokenizer=prior.tokenizer)
    texts = []

    def posterior(listed):
        texts.extend(listed)
        return torch.zeros(2, len(listed))

    for aggregation in ("mean", MARGINAL):
        texts.clear()
        model = uncertain_model(prior, posterior, aggregation, beta=1.0)
        log_likelihood_at(model, prompts[[0]], RESPONSE[:1, [0]])
        assert texts == [preference.texts[0]]
