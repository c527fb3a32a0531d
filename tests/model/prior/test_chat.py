"""Chats are written by the tokenizer's own template, once, and keep their messages."""

import pytest
import torch

from model import LanguageModel
from model.prior.chat import listed_prompts
from tests.model.tokenizers import chat, language_model_of

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
    "{{ ' <user> ' if message.role != 'assistant' else ' <assistant> ' }}"
    "{{ message.content }}"
    "{% if not loop.last or message.role != 'assistant' %} <end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
    "{% if mood is defined %} {{ mood }}{% endif %}"
)
"""A template with a beginning of its own, which the tokenizer adds to texts as well."""
BOS, END, USER, ASSISTANT, A, B, C, D = range(8)
QUESTION = [{"role": "user", "content": "a b"}]
CALL = [
    *QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "c"}}]},
    {"role": "tool", "content": "d"},
]


@pytest.fixture(scope="module")
def prior() -> LanguageModel:
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = TEMPLATE
    return language_model_of(tokenizer, max_new_tokens=2)


def test_chat_is_the_template_with_one_beginning_up_to_the_answer(prior: LanguageModel) -> None:
    prompts = prior.encode([QUESTION])
    assert prompts.rows() == [[BOS, USER, A, B, END, ASSISTANT]]
    expected = prior.tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)
    assert prompts.rows() == [expected["input_ids"]]
    assert prompts.texts == ("<bos> <user> a b <end> <assistant>",)
    assert prompts.messages == (tuple(QUESTION),)


def test_text_has_the_beginning_that_the_tokenizer_adds_and_a_template_of_its_own_none() -> None:
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    prompts = language_model_of(tokenizer, max_new_tokens=2).encode(["a b", QUESTION])
    assert prompts.rows() == [[BOS, A, B], [A, B]]
    assert prompts.messages == (None, tuple(QUESTION))


def test_message_of_the_assistant_goes_on(prior: LanguageModel) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "c"}]
    assert prior.encode([begun]).rows() == [[BOS, USER, A, B, END, ASSISTANT, C]]


def test_system_comes_first_and_makes_a_chat_of_a_text(prior: LanguageModel) -> None:
    rows = prior.encode(["a b", QUESTION], system="d").rows()
    assert rows == [[BOS, USER, D, END, USER, A, B, END, ASSISTANT]] * 2


def test_options_of_the_template_are_passed_on(prior: LanguageModel) -> None:
    assert prior.encode([QUESTION], mood="c").rows()[0][-2:] == [ASSISTANT, C]


@pytest.mark.parametrize("tools", [[{"name": "c", "unit": None}], '[{"name": "c"}]'])
def test_template_reads_tools_and_options_in_the_columns_of_a_row(tools: object) -> None:
    """A key without a value is a key that a table filled in. The prompt in the middle has none."""
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = (
        "{% for t in tools or [] %}{{ t.keys() | list }} {{ t.name }} {% endfor %}" + TEMPLATE
    )
    columns = {"tools": [tools, None, []], "chat_template_kwargs": [None, '{"mood": "d"}', {}]}
    prior = language_model_of(tokenizer, max_new_tokens=2)
    prompts = prior.encode([QUESTION] * 3, columns)
    plain = "<bos> <user> a b <end> <assistant>"
    assert prompts.texts == (f"['name'] c {plain}", f"{plain} d", plain)
    assert prompts.columns["tools"][0] == tools
    prompts = prior.encode(["a", QUESTION], {"tools": ["of a text", tools]}, tools=[{"name": "d"}])
    assert prompts.texts == ("a", f"['name'] d {plain}"), "options of the call win"


def test_calls_of_tools_need_no_content() -> None:
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content }} "
        "{% for call in message.tool_calls or [] %}{{ call.function.name }} {% endfor %}"
        "{% endfor %}"
    )
    without = [{key: value for key, value in each.items() if value} for each in CALL]
    prompts = language_model_of(tokenizer, max_new_tokens=2).encode([CALL, without])
    assert prompts.rows() == [[A, B, C, D]] * 2


def test_calls_of_tools_are_read_by_a_template_that_writes_whole_messages() -> None:
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = "{% for message in messages %}{{ message | tojson }}{% endfor %}"
    prompts = language_model_of(tokenizer, max_new_tokens=2).encode([CALL])
    assert '"tool_calls": [{"function": {"name": "c"}}]' in prompts.texts[0]


def test_whole_text_of_a_response_is_the_chat_and_the_response(prior: LanguageModel) -> None:
    prompts = prior.encode([QUESTION])
    assert prior.decode(torch.tensor([[C, D]]), prompts) == [f"{prompts.texts[0]} c d"]


def test_samples_are_scored_as_drawn_after_chats_of_different_length(prior: LanguageModel) -> None:
    prompts = prior.encode([QUESTION, "a", [*QUESTION, {"role": "assistant", "content": "c c"}]])
    response = prior(prompts).sample((5,))
    alone = [prior(prompts[[n]]).log_prob(response[:, [n]]) for n in range(3)]
    torch.testing.assert_close(prior(prompts).log_prob(response), torch.cat(alone, 1))


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        (QUESTION, {}, TypeError, r"a chat is one prompt, so put its messages .*\[\[...\]\]"),
        ([[{"role": "user"}]], {}, ValueError, "message 0 of prompt 0 has the keys .'role'."),
        ([["a", *QUESTION]], {}, TypeError, "message 0 of prompt 0 is 'a'"),
        ([[{"role": "user", "content": {1}}]], {}, TypeError, "'content' in message 0 of prompt 0"),
        ([["a", "b"]], {}, TypeError, "index 0, expected a text, or messages such as"),
        (
            [[*QUESTION, {"role": "system", "content": "c"}]],
            {},
            ValueError,
            r"refuses prompt 0, with the roles \['user', 'system'\]: TemplateError: late",
        ),
        (["a"], {"mood": "c"}, TypeError, r"\['mood'\], options of a chat template, and no prompt"),
        (
            [[{"role": "system", "content": "c"}, *QUESTION]],
            {"system": "d"},
            ValueError,
            "prompt 0 has a message of the system, 'c', and `system` is set",
        ),
        (["a"], {"system": 3}, TypeError, "system is an? int"),
        (["a"], {"columns": []}, TypeError, "columns is a list, expected a dict of lists"),
        (
            [[{"role": "user", "content": [{"type": "text", "text": "a"}]}]],
            {},
            ValueError,
            r"'content' in message 0 of prompt 0 is \[\{'type'.* \(list\), expected a text",
        ),
        ([[{"role": "user", "content": None}]], {}, ValueError, "has the keys .'role'., expected"),
        ([QUESTION], {"moood": "c"}, ValueError, "never reads 'moood', which prompt 0 got"),
        ([QUESTION], {"tools": [{"name": "c"}]}, ValueError, "never reads 'tools', which prompt 0"),
        (
            [QUESTION],
            {"columns": {"tools": ['[{"name": "c"}]']}},
            ValueError,
            "never reads 'tools', which prompt 0",
        ),
        (
            [QUESTION],
            {"columns": {"tools": ["search"]}},
            ValueError,
            "'tools' of prompt 0 is 'search', expected a list of tools, each an object",
        ),
        (
            [QUESTION],
            {"columns": {"chat_template_kwargs": [["mood"]]}},
            ValueError,
            r"'chat_template_kwargs' of prompt 0 is \['mood'\], expected an object of options",
        ),
        ([CALL], {}, ValueError, "never reads 'tool_calls', which prompt 0 got"),
    ],
)
def test_chat_that_cannot_be_written_is_refused_with_its_place(
    prior: LanguageModel, prompts, options, error, message
) -> None:
    with pytest.raises(error, match=message):
        prior.encode(prompts, **options)


@pytest.mark.parametrize(("role", "content"), [("system", "D"), ("tool", "Mark-0.")])
def test_message_that_the_template_leaves_out_is_refused(role: str, content: str) -> None:
    """Not thoughts of the assistant, and not what the template changes, takes out or checks."""
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'user' %}"
        "{{ raise_exception('C x') if message.content == 'C x' }}"
        "{{ message.content | replace('/off', '') | trim | lower }} "
        "{% elif message.role == 'assistant' %}{{ message.content.split('</think>')[-1] }} "
        "{% endif %}{% endfor %}"
    )
    prior = language_model_of(tokenizer, max_new_tokens=2)
    turns = [{"role": "user", "content": "A b"}, {"role": "assistant", "content": "d</think>c"}]
    users = [{"role": "user", "content": text} for text in ("/off", "C", "a b")]
    assert prior.encode([[*turns, *users]]).rows() == [[A, B, C, C, A, B]]
    with pytest.raises(ValueError, match=f"leaves out message 0 of prompt 0, of the role '{role}'"):
        prior.encode([[{"role": role, "content": content}, *QUESTION]])


def test_tokenizer_without_a_template_says_what_to_do() -> None:
    prior = language_model_of(chat("<bos> $A"), max_new_tokens=2)
    with pytest.raises(ValueError, match="prompt 1 is a chat, and the tokenizer has no chat temp"):
        prior.encode(["a", QUESTION])
    template = "{{ messages[0].content }}"
    assert prior.encode([QUESTION], chat_template=template).rows() == [[A, B]]


def test_listed_prompts_take_any_iterable_and_leave_chats_unshared() -> None:
    (listed,) = listed_prompts(iter([QUESTION]))
    assert listed == tuple(QUESTION)
    assert listed[0] is not QUESTION[0]
