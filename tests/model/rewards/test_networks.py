"""Rewards by other networks against plain passes over single texts."""

import math

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import logsigmoid
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvBertConfig,
    ConvBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from inference import Enumeration
from model import (
    AlignmentModel,
    Expert,
    Length,
    LikelihoodError,
    SequenceClassifier,
    TextLikelihood,
    TextReward,
    WeightedSum,
)
from model.networks.text_network import in_batches
from model.preferences import EncoderFeatures
from tests.model.tiny import ENCODER_SIZES, GPT2_SIZES, PROMPTS, WORDS, llama, tiny, tiny_tokenizer

TEXTS = ["a b c a", "b", "c c", "a", "b c a b c"]
READER = ENCODER_SIZES | {
    "max_position_embeddings": 16,
    "initializer_range": 0.5,
    "pad_token_id": 1,
}
LABELS = {0: "bad", 1: "fine", 2: "good"}


def bert(num_labels=3, **settings):
    torch.manual_seed(0)
    names = (
        {"id2label": {i: LABELS[i] for i in range(num_labels)}}
        if num_labels == 3
        else {"num_labels": num_labels}
    )
    return BertForSequenceClassification(BertConfig(**READER, **names, **settings))


def gpt2_classifier():
    """A decoder, which reads the last token that is not padding."""
    torch.manual_seed(0)
    sizes = GPT2_SIZES | {"n_layer": 1, "initializer_range": 0.5}
    return GPT2ForSequenceClassification(
        GPT2Config(**sizes, num_labels=3, pad_token_id=None, eos_token_id=0)
    )


def plain_logits(network, texts):
    """Logits of texts, one text at a time without padding."""
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        rows = [
            network.eval()(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in texts
        ]
    return torch.stack(rows)


# Classifiers


@pytest.mark.parametrize("make", [bert, gpt2_classifier])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_classifier_is_that_of_single_texts(make, batch_size):
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    logits = plain_logits(make(), TEXTS).double()
    by_output = {
        output: SequenceClassifier(make(), tokenizer, 2, output=output, batch_size=batch_size)
        for output in ("logit", "log-prob")
    }
    assert_close(by_output["logit"](TEXTS), logits[:, 2], atol=1e-5, rtol=0)
    assert_close(by_output["log-prob"](TEXTS), logits.log_softmax(1)[:, 2], atol=1e-5, rtol=0)
    assert (by_output["logit"].upper_bound, by_output["log-prob"].upper_bound) == (None, 0.0)


@pytest.mark.on_cpu
def test_a_network_whose_layers_read_padding_reads_one_text_at_a_time():
    """Convolutions reach from the last token into the padding."""
    torch.manual_seed(0)
    config = ConvBertConfig(**READER, embedding_size=16, num_labels=3)
    network, tokenizer = (
        ConvBertForSequenceClassification(config),
        tiny_tokenizer(pad_token="<pad>"),
    )
    classifier = SequenceClassifier(network, tokenizer, 2, output="logit")
    assert_close(classifier(TEXTS), plain_logits(network, TEXTS)[:, 2].double(), atol=1e-5, rtol=0)
    features = EncoderFeatures(network.convbert, tokenizer)
    alone = torch.cat([EncoderFeatures(network.convbert, tokenizer)([text]) for text in TEXTS])
    assert_close(features(TEXTS), alone, atol=1e-5, rtol=0)
    assert SequenceClassifier(bert(), tokenizer, 2).batch_size > 1


@pytest.mark.parametrize("pad_token", [None, "<pad>", "c"])
@pytest.mark.parametrize("own", [None, -1, 1])
def test_decoder_reads_the_last_token_of_a_text_as_it_does_alone(pad_token, own):
    """A text may end with the token that fills a batch, as a chat does whose end is the padding."""
    texts = ["a b <end>", "a <pad>", "b c", "c <end> <pad>", *TEXTS]
    network, alone = gpt2_classifier(), gpt2_classifier()
    network.config.pad_token_id = alone.config.pad_token_id = own
    logits = plain_logits(alone, texts).double()[:, 1]
    for batch_size in (1, 3, 32):
        tokenizer = tiny_tokenizer(pad_token=pad_token)
        classifier = SequenceClassifier(
            network, tokenizer, 1, output="logit", batch_size=batch_size
        )
        assert_close(classifier(texts), logits, atol=1e-5, rtol=0)
        assert network.config.pad_token_id == own


def test_positions_that_begin_after_that_of_the_padding_are_not_read_beyond():
    """RoBERTa with padding token 1 leaves the first two of 16 positions unused."""
    torch.manual_seed(0)
    network = RobertaForSequenceClassification(RobertaConfig(**READER, num_labels=3))
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    assert tokenizer.pad_token_id == 1
    end = "b c a b c a b c a b c a b c"
    classifier = SequenceClassifier(network, tokenizer, 2)
    logits = plain_logits(network, [end]).double()
    assert len(tokenizer(end)["input_ids"]) == 14
    assert_close(classifier(["a " * 30 + end]), logits.log_softmax(1)[:, 2], atol=1e-5, rtol=0)


def test_networks_of_any_length_are_not_cut():
    config = XLNetConfig(
        vocab_size=len(WORDS), d_model=16, n_layer=1, n_head=2, d_inner=16, num_labels=3
    )
    assert (
        SequenceClassifier(
            XLNetForSequenceClassification(config), tiny_tokenizer(pad_token="<pad>"), 1
        ).max_length
        is None
    )


def test_of_a_long_text_the_end_is_read():
    classifier = SequenceClassifier(bert(), tiny_tokenizer(pad_token="<pad>"), "good")
    start, end = "a " * 30, "b c a b c a b c a b c a b c a b"
    assert_close(classifier([start + end]), classifier([end]))
    assert not torch.allclose(classifier([start + end]), classifier([start + "c " + end[2:]]))
    likelihood = TextLikelihood(llama(), tiny_tokenizer())
    assert_close(
        likelihood([start + end]), likelihood([end[2:]])
    )  # the context is 16 and BOS one of them


def test_labels_that_do_not_exclude_each_other_and_single_ones_are_sigmoids():
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    several = bert(problem_type="multi_label_classification")
    single = bert(num_labels=1)
    assert_close(
        SequenceClassifier(several, tokenizer, "fine")(TEXTS),
        logsigmoid(plain_logits(several, TEXTS).double()[:, 1]),
        atol=1e-5,
        rtol=0,
    )
    assert_close(
        SequenceClassifier(single, tokenizer)(TEXTS),
        logsigmoid(plain_logits(single, TEXTS).double()[:, 0]),
        atol=1e-5,
        rtol=0,
    )


def test_numbers_of_a_regression_are_no_labels():
    network, tokenizer = bert(problem_type="regression"), tiny_tokenizer(pad_token="<pad>")
    with pytest.raises(ValueError, match=r"predicts numbers, .*: pass output='logit'"):
        SequenceClassifier(network, tokenizer, "fine")
    values = SequenceClassifier(network, tokenizer, "fine", output="logit")(TEXTS)
    assert_close(values, plain_logits(network, TEXTS)[:, 1].double(), atol=1e-5, rtol=0)


def test_classifier_loads_from_a_folder_in_the_type_on_disk(tmp_path):
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    bert().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = SequenceClassifier.from_pretrained(tmp_path, "good", dtype="bfloat16", device="cpu")
    assert loaded.network.dtype == torch.bfloat16
    expected = SequenceClassifier(bert(), tokenizer, "good")(TEXTS)
    assert_close(loaded(TEXTS), expected, atol=0.05, rtol=0.05)


def test_label_that_is_not_there_is_named_with_those_that_are():
    match = r"label is 'great', expected one of .*'bad', 'fine', 'good'"
    with pytest.raises(ValueError, match=match):
        SequenceClassifier(bert(), tiny_tokenizer(), "great")
    with pytest.raises(ValueError, match="label is None"):
        SequenceClassifier(bert(), tiny_tokenizer())


@pytest.mark.parametrize("make", [bert, gpt2_classifier])
def test_a_text_without_tokens_is_named_alone_and_in_a_batch(make):
    classifier = SequenceClassifier(make(), tiny_tokenizer(pad_token="<pad>"), 0)
    for texts in ([""], ["a b", "", "c"], ["a", "  "]):
        match = r"the text ' *' has no tokens: there is nothing to classify"
        with pytest.raises(ValueError, match=match):
            classifier(texts)
    begun = SequenceClassifier(make(), grammar_like_tokenizer(), 0)
    assert_close(begun(["a b", "", "c"])[1:2], begun([""]), atol=1e-5, rtol=0)


def grammar_like_tokenizer():
    """Tokenizer that adds a token to every text, also to an empty text."""
    tokenizer = tiny_tokenizer(pad_token="<pad>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", 0)]
    )
    return tokenizer


def test_network_without_logits_of_labels_is_no_classifier():
    """Logits for each token, or for other labels than the configuration has."""
    network = bert()
    network.config.id2label = {0: "bad", 1: "good"}
    match = r"logits of BertForSequenceClassification have shape \(1, 3\), expected \(1, 2\)"
    with pytest.raises(ValueError, match=match):
        SequenceClassifier(network, tiny_tokenizer(pad_token="<pad>"), "good")(["a b"])


def test_labels_of_one_name_want_an_index():
    network = bert()
    network.config.id2label = {0: "bad", 1: "good", 2: "good"}
    with pytest.raises(ValueError, match=r"label is 'good' \(which several have: give its index\)"):
        SequenceClassifier(network, tiny_tokenizer(pad_token="<pad>"), "good")
    assert SequenceClassifier(network, tiny_tokenizer(pad_token="<pad>"), 2).index == 2


def test_log_probability_at_beta_one_is_bayes_rule():
    """p*(x) = p0(x) p(good | x) / p(good), and Z is p(good)."""
    prior = tiny(max_new_tokens=2)
    prompts = prior.encode(["a b"])
    classifier = SequenceClassifier(bert().double(), tiny_tokenizer(pad_token="<pad>"), "good")
    truth = Enumeration(AlignmentModel(prior, TextReward(classifier, prior), beta=1.0), prompts)
    texts = [row[0] for row in prior.decode(truth.support, prompts)]
    likelihood = plain_logits(bert().double(), texts).softmax(-1)[:, 2]
    joint = truth.log_prior[:, 0].exp() * likelihood
    assert_close(truth.log_posterior[:, 0].exp(), joint / joint.sum(), atol=1e-12, rtol=0)
    assert_close(truth.log_z.exp().item(), joint.sum().item(), atol=1e-12, rtol=0)


# Likelihoods


@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("bos", ["<end>", None])
def test_likelihood_of_a_text_is_the_product_over_tokens(per_token, bos):
    torch.manual_seed(0)
    network, tokenizer = llama().double(), tiny_tokenizer(bos_token=bos)
    actual = TextLikelihood(network, tokenizer, per_token=per_token, batch_size=2)([*TEXTS, ""])
    expected = []
    for text in [*TEXTS, ""]:
        ids = ([0] if bos else []) + tokenizer(text)["input_ids"]
        total, scored = 0.0, 0
        for t in range(1, len(ids)):
            with torch.no_grad():
                total += (
                    network(torch.tensor([ids[:t]])).logits[0, -1].log_softmax(-1)[ids[t]].item()
                )
            scored += 1
        expected.append(total / max(1, scored) if per_token else total)
    assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)


def test_likelihood_loads_from_a_folder(tmp_path):
    language_model = tiny("llama", dtype=torch.float32)
    language_model.save_pretrained(tmp_path)
    loaded = TextLikelihood.from_pretrained(tmp_path, device="cpu")
    assert_close(
        loaded(TEXTS), TextLikelihood(language_model.network, language_model.tokenizer)(TEXTS)
    )


@pytest.mark.parametrize(("weight", "beta"), [(1.0, 1.0), (2.0, 0.5), (-0.5, 1.0)])
def test_product_of_experts_is_the_product(weight, beta):
    prior, other = tiny(), tiny("llama")
    prompts = prior.encode(PROMPTS)
    experts = WeightedSum({"other": (weight, Expert(other, prior))})
    truth = Enumeration(AlignmentModel(prior, experts, beta), prompts)
    log_product = prior(prompts).log_prob(truth.support) + weight / beta * other(prompts).log_prob(
        truth.support
    )
    assert_close(truth.log_posterior, log_product.log_softmax(0), atol=1e-10, rtol=0)
    assert experts.upper_bound == (0.0 if weight > 0 else None)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"max_new_tokens": 2}, "max_new_tokens 2 and 3"),
        ({"end_ids": [0, 1]}, r"end_ids \[0, 1\] and \[0\]"),
        ({"pad_id": 1}, "pad_id"),
    ],
)
def test_expert_of_other_responses_is_refused(settings, fault):
    with pytest.raises(ValueError, match=f"and the prior differ in {fault}.*TextLikelihood"):
        Expert(tiny(**settings), tiny())


def test_expert_with_other_words_is_refused():
    other = tiny()
    other.tokenizer.add_tokens(["d"])
    with pytest.raises(ValueError, match="and the prior differ in tokenizers of other entries"):
        Expert(other, tiny())


# Length, and batches


@pytest.mark.parametrize(("target", "expected"), [(None, [1, 3, 0]), (2, [-1, -1, -2])])
def test_length_does_not_count_the_end(target, expected):
    language_model = tiny()
    response = torch.tensor([[2, 0, 0], [2, 3, 4], [0, 0, 0]])
    length = Length(language_model, target)
    assert length(language_model.encode(PROMPTS), response).tolist() == expected
    assert length.upper_bound == (3.0 if target is None else 0.0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_come_back_in_order(batch_size):
    sizes = []

    def length(texts):
        sizes.append(len(texts))
        return torch.tensor([[float(len(text))] for text in texts])

    assert in_batches(length, TEXTS, batch_size).flatten().tolist() == [len(text) for text in TEXTS]
    assert max(sizes) <= batch_size
    assert len(sizes) == math.ceil(len(TEXTS) / batch_size)
    assert len(in_batches(length, [], batch_size)) == 0


def test_network_that_fails_is_a_likelihood_error_with_the_text():
    language_model = tiny()
    classifier = SequenceClassifier(bert(), tiny_tokenizer(pad_token="<pad>"), "good")
    with pytest.raises(LikelihoodError, match=r"reward 'SequenceClassifier' failed on the text ''"):
        TextReward(classifier, language_model, whole=False)(
            language_model.encode(["a"]), torch.zeros(1, 3, dtype=torch.long)
        )


def test_likelihoods_of_a_network_in_float64_are_not_rounded_to_float32():
    """Rounding of float32 would be 1e-8 at least."""
    network = llama().double()
    reward = TextLikelihood(network, tiny_tokenizer(), per_token=False)
    ids = torch.tensor([0, 3, 4, 2, 3, 4])  # of the beginning and the text
    with torch.no_grad():
        log_prob = network(ids[None]).logits[0, :-1].log_softmax(-1)
    expected = log_prob.gather(-1, ids[1:, None]).sum()
    assert reward(["b c a b c"]).item() == pytest.approx(expected.item(), rel=1e-13)
