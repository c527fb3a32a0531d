"""Preferences between chats become the texts that a reward sees."""

import json

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from model.preferences import Preference, PreferenceError, read_preferences
from model.preferences.data import encode_prompts
from tests.model.tokenizers import TOKENIZERS, byte_level, language_model_of

TEMPLATES = {
    "chatml": (
        "<|im_end|>",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "llama-3": (
        "<|eot_id|>",
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "gemma": (
        "<end_of_turn>",
        "<bos>{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "mistral": (
        "</s>",
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
    ),
}
USER, OTHER = {"role": "user", "content": "Is it good?"}, {"role": "user", "content": "Why?"}
YES, NO = ({"role": "assistant", "content": content} for content in ("It is.", "Not at all."))


def tokenizer_of(name: str, kind: str = "byte-level") -> PreTrainedTokenizerBase:
    """Tokenizer of a kind, with the template and the end of a turn as one token."""
    tokenizer = TOKENIZERS[kind]()
    end, tokenizer.chat_template = TEMPLATES[name]
    tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "python"])
@pytest.mark.parametrize("start", [[USER], [USER, NO, OTHER]])
def test_texts_of_a_preference_are_the_texts_that_a_reward_sees(name, kind, start):
    tokenizer, end = tokenizer_of(name, kind), TEMPLATES[name][0]
    row = {"prompt": start, "chosen": [YES], "rejected": [NO]}
    (preference,) = read_preferences([row], tokenizer)
    end_ids = tokenizer.convert_tokens_to_ids([end])
    prior = language_model_of(tokenizer, max_new_tokens=16, end_ids=end_ids)
    prior.context = None
    prompts = prior.encode([start])
    assert preference.prompt == prompts.texts[0]
    for text in preference.texts:
        ids = tokenizer(text + end, add_special_tokens=False)["input_ids"]
        response = ids[prompts.ids.shape[1] :]
        response = torch.tensor([response + [prior.pad_id] * (16 - len(response))])
        assert prior.decode(response, prompts) == [text]


def test_template_reads_the_tools_of_a_preference():
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = "{% for t in tools or [] %}{{ t.name }}\n{% endfor %}" + (
        tokenizer.chat_template
    )
    row = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "tools": [{"name": "search"}]}
    (preference,) = read_preferences([row], tokenizer)
    assert preference.prompt.startswith("search\n<|im_start|>user")
    assert preference.chosen == "It is."
    prior = language_model_of(tokenizer, max_new_tokens=2)
    prior.context = None
    assert encode_prompts([preference], prior).texts == (preference.prompt,)


def test_prompt_is_explicit_or_the_common_start_of_both_chats():
    tokenizer = tokenizer_of("chatml")
    rows = [
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": USER["content"], "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": None, "chosen": [USER, YES], "rejected": [USER, NO]},
    ]
    first, *others = read_preferences(rows, tokenizer)
    assert others == [first] * 3
    assert [each.chat for each in (first, *others)] == [(USER,)] * 4
    assert first.chosen == "It is."


def test_conversations_that_part_early_keep_their_turns():
    row = {"chosen": [USER, YES, OTHER, NO], "rejected": [USER, NO]}
    (preference,) = read_preferences([row], tokenizer_of("chatml"))
    assert preference.rejected == "Not at all."
    turn = "It is.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nNot at all."
    assert preference.chosen == turn


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The film shone.", "The film dragged.", ("The film", " shone.", " dragged.")),
        ("The film was great", "The film was grey", ("The film was", " great", " grey")),
        ("Q: a?\n\nA: No", "Q: a?\n\nA: No, never", ("Q: a?\n\nA:", " No", " No, never")),
    ],
)
def test_prompt_of_texts_is_their_common_start_in_whole_words(chosen, rejected, expected):
    assert read_preferences([{"chosen": chosen, "rejected": rejected}]) == [Preference(*expected)]


def test_preferences_in_csv_have_ties_and_chats(tmp_path):
    chats = [json.dumps([USER, answer]).replace('"', '""') for answer in (YES, NO)]
    path = tmp_path / "pairs.csv"
    path.write_text(f'chosen,rejected,tie\n"{chats[0]}","{chats[1]}",True\nA b,A c,false\n')
    chat, text = read_preferences(path, tokenizer_of("chatml"))
    assert (chat.chosen, chat.tie) == ("It is.", True)
    assert text == Preference("A", " b", " c")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": [USER, YES], "rejected": [OTHER, NO]}, "'prompt' is missing or .* no common"),
        ({"prompt": "A", "chosen": [YES], "rejected": [NO]}, "or a text.* write .* as messages"),
        (
            {"chosen": "good", "rejected": "bad"},
            "'prompt' is missing, and .* no common start: rename",
        ),
        ({"prompt": [USER], "chosen": "a", "rejected": "b"}, "texts and chats, expected"),
        ({"prompt": [USER], "chosen": [YES], "rejected": "b"}, "texts and chats, expected"),
        ({"chosen": [USER, YES], "rejected": [USER, YES]}, 'the same text.*add "tie": true'),
    ],
)
def test_preference_whose_prompt_is_unclear_is_refused_with_its_place(row, message):
    with pytest.raises(PreferenceError, match=f"^record 0: .*{message}"):
        read_preferences([row], tokenizer_of("chatml"))


def test_chats_need_a_tokenizer_with_a_template_that_takes_them():
    row = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
    with pytest.raises(PreferenceError, match="record 0: the responses are chats: pass the token"):
        read_preferences([row])
    with pytest.raises(PreferenceError, match="record 0 is a chat, and the tokenizer has no chat"):
        read_preferences([row], byte_level())
    system = [{"role": "system", "content": "Be brief."}, USER]
    with pytest.raises(PreferenceError, match=r"refuses record 0, .*System role not supported"):
        read_preferences([row | {"prompt": system}], tokenizer_of("gemma"))
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = (
        "{% if add_generation_prompt %}think{% endif %}"
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    with pytest.raises(PreferenceError, match="record 0: the chat template writes the prompt othe"):
        read_preferences([row], tokenizer)
