"""Features of texts, and their centre and scale."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import Llama4ForCausalLM, Llama4TextConfig, PreTrainedTokenizerFast

from model import LanguageModel
from model.preferences import EncoderFeatures, NetworkFeatures, PriorFeatures, StandardisedFeatures
from tests.model.tiny import encoder, tiny_tokenizer

TEXTS = ["the film was good", "the plot was not very dull", "bad", "the film was good"]


def test_prior_features_are_the_mean_of_the_last_states_whatever_the_batch(prior):
    features = PriorFeatures(prior)(TEXTS)
    assert features.dtype == torch.float64
    for text, feature in zip(TEXTS, features, strict=True):
        ids = torch.tensor([prior.tokenizer(text)["input_ids"]])
        states = prior.network(ids, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(feature, states[0].mean(0), atol=1e-12)
    assert torch.allclose(PriorFeatures(prior, batch_size=1)(TEXTS), features, atol=1e-12)
    assert not features.requires_grad


def test_a_text_is_read_once(prior):
    read = []

    class Counted(PriorFeatures):
        def encode(self, texts):
            read.extend(texts)
            return super().encode(texts)

    features = Counted(prior)
    first = features(TEXTS)
    assert torch.equal(features(TEXTS[::-1]), first.flip(0))
    assert sorted(read) == sorted(set(TEXTS))
    features.max_cached = 1
    features(["dull"])
    assert len(features._cache) == 1
    with pytest.raises(ValueError, match="non-empty list"):
        features("the film")


def test_a_text_over_the_context_is_read_from_its_end(prior):
    long = " ".join(["bad"] * 20 + ["good"] * 32)
    ids = torch.tensor([prior.tokenizer(long)["input_ids"][-32:]])
    states = prior.network(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(PriorFeatures(prior)([long])[0], states[0].mean(0))


def test_encoder_features_take_the_attention_mask(prior, tmp_path):
    torch.manual_seed(0)
    encoder(vocab_size=10, num_hidden_layers=2).save_pretrained(tmp_path)
    prior.tokenizer.save_pretrained(tmp_path)
    features = EncoderFeatures.from_pretrained(tmp_path, device="cpu", dtype=torch.float64)
    together = features(TEXTS)
    for text, feature in zip(TEXTS, together, strict=True):
        states = features.network(
            torch.tensor([prior.tokenizer(text)["input_ids"]])
        ).last_hidden_state
        assert torch.allclose(feature, states[0].mean(0), atol=1e-10)


def test_encoder_reads_the_end_of_a_long_text(prior):
    """The limit is the network's, also if the tokenizer states no limit."""
    torch.manual_seed(0)
    network = encoder(vocab_size=10, max_position_embeddings=8)
    end = "the plot was not very dull bad good"
    for max_length, read in ((None, end), (3, "dull bad good")):
        features = EncoderFeatures(network, prior.tokenizer, max_length=max_length)
        assert torch.allclose(features([f"film was {end}"]), features([read]), atol=1e-6)


def test_a_text_without_tokens_is_read_as_padding():
    """Empty text alone, beside others, and of spaces; the features of others do not change."""
    torch.manual_seed(0)
    words = Tokenizer(WordLevel({"[PAD]": 0, "good": 1, "film": 2}, unk_token="[PAD]"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    assert tokenizer([""])["input_ids"] == [[]]
    features = EncoderFeatures(encoder(vocab_size=3), tokenizer)
    expected = features.network(torch.tensor([[0]])).last_hidden_state[0, 0].double()
    alone = features([""])
    features._cache.clear()
    beside = features(["good film", "", "  "])
    features._cache.clear()
    assert torch.allclose(alone[0], expected, atol=1e-6)
    assert torch.allclose(beside[1:], expected.expand(2, -1), atol=1e-6)
    assert torch.allclose(beside[:1], features(["good film"]), atol=1e-6)


def test_features_that_are_not_finite_are_refused_with_their_text_and_not_kept():
    class Narrow(NetworkFeatures):
        def encode(self, texts):
            return torch.tensor(
                [[1.0, float("nan") if text == "a dull film" else 2.0] for text in texts]
            )

    features = Narrow(batch_size=2)
    with pytest.raises(ValueError, match="features of the text 'a dull film' are not finite"):
        features(["good", "a good film", "a dull film"])
    assert features(["good", "good"]).tolist() == [[1, 2], [1, 2]]
    assert "a dull film" not in features._cache


def plain(texts):
    return torch.tensor(
        [[float(len(text)), float(text.count("o")), 1.0] for text in texts], dtype=torch.float64
    )


@pytest.mark.parametrize(
    "options", [{}, {"num_components": 2}, {"num_components": 2, "whiten": True}]
)
def test_standardised_texts_have_mean_zero_and_mean_square_norm_one(options):
    texts = ["o", "good", "foolproof", "a long one", "none at all"]
    standardised = StandardisedFeatures.fit(plain, texts, **options)
    z = standardised(texts)
    assert z.shape == (5, standardised.num_features)
    assert torch.allclose(z.mean(0), torch.zeros_like(z[0]), atol=1e-12)
    assert z.square().sum(1).mean().item() == pytest.approx(1)
    if "whiten" in options:
        assert torch.allclose(z.square().mean(0), torch.full((2,), 0.5, dtype=torch.float64))


def test_all_components_keep_all_distances():
    texts = ["o", "good", "foolproof", "a long one", "none at all"]
    whole, projected = (
        StandardisedFeatures.fit(plain, texts, num_components=number)(texts) for number in (None, 3)
    )
    assert projected.shape == (5, 2)  # the third feature is the same for all
    assert torch.allclose(torch.cdist(whole, whole), torch.cdist(projected, projected), atol=1e-10)


def test_texts_without_differences_and_whitening_without_components_are_refused():
    with pytest.raises(ValueError, match="all 2 texts have the same features"):
        StandardisedFeatures.fit(plain, ["on", "no"])
    with pytest.raises(ValueError, match="num_components"):
        StandardisedFeatures.fit(plain, ["a", "good"], whiten=True)


def test_features_are_of_the_body_whatever_the_network_calls_it():
    """Llama 4 is the `base_model` of itself."""
    sizes = {
        "vocab_size": 5,
        "hidden_size": 16,
        "intermediate_size": 32,
        "intermediate_size_mlp": 32,
        "head_dim": 8,
    }
    heads = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 2,
    }
    special = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "max_position_embeddings": 16,
    }
    network = Llama4ForCausalLM(Llama4TextConfig(**sizes, **heads, **special)).eval()
    prior = LanguageModel(network, tiny_tokenizer(), max_new_tokens=3)
    expected = network.model(torch.tensor([[2, 3]])).last_hidden_state[0].mean(0).double()
    for features in (PriorFeatures(prior), EncoderFeatures(network, tiny_tokenizer())):
        assert torch.allclose(features(["a b"])[0], expected, rtol=0, atol=1e-5)
