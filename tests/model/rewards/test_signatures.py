"""Functions of TRL, verl and verifiers see prompts and columns, each by its own parameters."""

import asyncio
import functools

import pytest
import torch

from inference import Enumeration
from model import AlignmentModel, LikelihoodError, TextReward
from model.rewards.user_function import user_function
from tests.model.tokenizers import chat, language_model_of

ANSWERS = {"answer": ["good", "very bad"], "topic": ["film", "plot"]}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ ' <user> ' if message.role != 'assistant' else ' <assistant> ' }}{{ message.content }}"
    "{% if not loop.last or message.role != 'assistant' %} <end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
)
QUESTION = [{"role": "user", "content": "a b"}]


@pytest.fixture(scope="module")
def questions(prior):
    """Both prompts of the grammar, with an answer and a topic."""
    return prior.encode(["the film was", "the plot was"], columns=ANSWERS)


@pytest.fixture(scope="module")
def response(prior, questions):
    """Every response `[S, N, T]`."""
    return Enumeration(AlignmentModel(prior, {}, 1.0), questions).support


@pytest.fixture(scope="module")
def truth(prior, response):
    """1 for the responses that are the answer, `[S, N]`."""
    texts = prior.decode(response)
    answers = ANSWERS["answer"]
    return torch.tensor(
        [
            [float(text == answer) for text, answer in zip(row, answers, strict=True)]
            for row in texts
        ],
        dtype=torch.float64,
    )


def trl(completions, answer, **kwargs):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def trl_with_all(prompts, completions, completion_ids, answer, topic, log_extra=None, **kwargs):
    assert all(prompt == f"the {each} was" for prompt, each in zip(prompts, topic, strict=True))
    assert all(isinstance(ids, list) and ids for ids in completion_ids)
    assert kwargs == {}
    return trl(completions, answer)


def trl_by_keywords(completions, **kwargs):
    return trl(completions, kwargs["answer"])


async def trl_asynchronous(completions, answer, **kwargs):
    await asyncio.sleep(0)
    return trl(completions, answer)


def verl(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source in ("film", "plot")
    assert extra_info is None
    return float(solution_str == ground_truth)


def verl_with_dict(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": verl(data_source, solution_str, ground_truth), "length": 3}


async def verifiers(prompt, completion, answer, state):
    await asyncio.sleep(0)
    assert state == {"prompt": prompt, "completion": completion, "answer": answer} | {
        "topic": prompt.split()[1]
    }
    return float(completion == answer)


async def verifiers_without_prompt(completion, answer):
    return float(completion == answer)


def verifiers_by_state(state):
    return float(state["completion"] == state["answer"])


def verifiers_by_keywords(completion, **kwargs):
    return float(completion == kwargs["answer"])


class Callable:
    """An object with the parameters of verifiers."""

    def __call__(self, completion, answer):
        return float(completion == answer)


TRL = [trl, trl_with_all, trl_by_keywords, trl_asynchronous]
VERIFIERS = [
    verifiers,
    verifiers_without_prompt,
    verifiers_by_state,
    verifiers_by_keywords,
    Callable(),
    functools.partial(verifiers_by_keywords),
]


@pytest.mark.parametrize("function", [*TRL, *VERIFIERS])
def test_function_of_another_library_sees_the_answer_of_each_prompt(
    prior, questions, response, truth, function
):
    reward = TextReward(function, prior)
    assert torch.equal(reward(questions, response), truth)
    assert torch.equal(reward(questions[[1]], response[:, [1]]), truth[:, [1]])


@pytest.mark.parametrize("function", [verl, verl_with_dict])
@pytest.mark.parametrize("nested", [False, True])
def test_function_of_verl_sees_the_ground_truth(prior, response, truth, function, nested):
    answers = ANSWERS["answer"]
    columns = {"data_source": ["film", "plot"], "ground_truth": answers}
    if nested:  # as in the parquet files of verl
        columns["reward_model"] = [{"style": "rule", "ground_truth": each} for each in answers]
        del columns["ground_truth"]
    questions = prior.encode(["the film was", "the plot was"], columns=columns)
    assert torch.equal(TextReward(function, prior)(questions, response), truth)


def test_function_of_texts_sees_texts_alone_and_may_be_asynchronous(prior, questions, response):
    async def lengths(texts):
        await asyncio.sleep(0)
        return [len(text) for text in texts]

    values = TextReward(lengths, prior)(questions, response)
    plain = TextReward(lambda texts: list(map(len, texts)), prior)
    assert torch.equal(values, plain(questions, response))


def test_posterior_given_the_answer_is_exact(prior, questions, truth):
    """Equal texts with different answers are two prompts with two posteriors."""
    equal = prior.encode(["the film was"] * 2, columns={"answer": ANSWERS["answer"]})
    model = AlignmentModel(prior, TextReward(trl, prior, upper_bound=1.0), beta=0.5)
    exact = Enumeration(model, equal)
    assert torch.allclose(exact.log_likelihood, truth / 0.5)
    assert exact.log_z[0] > exact.log_z[1]


def test_asynchronous_function_runs_inside_a_running_loop(prior, questions, response, truth):
    async def notebook():
        return TextReward(verifiers, prior)(questions, response)

    assert torch.equal(asyncio.run(notebook()), truth)


def test_asynchronous_calls_run_at_the_same_time_in_one_loop(prior, questions, response):
    loops, running, most = set(), 0, 0

    async def slow(completion):
        nonlocal running, most
        loops.add(id(asyncio.get_running_loop()))
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return 0.0

    reward = TextReward(slow, prior, cache_size=0)
    for part in response[:20].split(10):
        reward(questions, part)
    assert most == 20
    assert len(loops) == 1


def test_exchange_that_came_before_is_not_scored_again(prior, questions, response):
    seen = []

    def counting(completions, answer):
        seen.extend(zip(completions, answer, strict=True))
        return [0.0] * len(completions)

    reward = TextReward(counting, prior)
    reward(questions, response[:5])
    reward(questions, response[:6])
    assert len(seen) == len(set(seen)) == 12
    reward(
        questions[[1, 0]], response[:6].flip(1)
    )  # told apart by position, not by place in a batch
    assert len(seen) == 12


def test_chat_is_seen_as_messages():
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = TEMPLATE
    prior = language_model_of(tokenizer, max_new_tokens=2)
    begun = [*QUESTION, {"role": "assistant", "content": "c "}]
    prompts = prior.encode([QUESTION, "a b", begun])
    seen = {}

    def trl(prompts, completions, **kwargs):
        seen["trl"] = prompts, completions
        return [0.0] * len(prompts)

    async def verifiers(prompt, completion):
        seen.setdefault("verifiers", []).append((prompt, completion))
        return 0.0

    def verl(solution_str):
        seen.setdefault("verl", []).append(solution_str)
        return 0.0

    response = torch.tensor([[[4, 5]] * 3])
    for function in (trl, verifiers, verl):
        TextReward(function, prior)(prompts, response)
    answer = [{"role": "assistant", "content": "a b"}]
    continued = [{"role": "assistant", "content": "c a b"}]
    assert seen["trl"] == ([QUESTION, "a b", QUESTION], [answer, "a b", continued])
    assert seen["verifiers"] == list(zip(*seen["trl"], strict=True))
    assert seen["verl"] == ["a b"] * 3


def test_function_of_texts_scores_the_response_alone_for_a_chat():
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = TEMPLATE
    prior = language_model_of(tokenizer, max_new_tokens=2)
    prompts, response = prior.encode([QUESTION, "a b"]), torch.tensor([[[4, 5], [4, 5]]])
    texts = {}
    for whole in (None, True, False):

        def record(listed, whole=whole):
            texts[whole] = listed
            return [0.0] * len(listed)

        TextReward(record, prior, whole=whole)(prompts, response)
    template = "<bos> <user> a b <end> <assistant>"
    assert texts == {None: ["a b", "a b a b"], True: [f"{template} a b", "a b a b"], False: ["a b"]}


@pytest.mark.parametrize(
    ("written", "begun"), [(" <think> ", "<think> "), ("", ""), (" <think> c", "")]
)
def test_tag_of_reasoning_that_a_template_writes_is_in_the_answer(written, begun):
    """Otherwise no answer would have the format of reasoning in tags."""
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = TEMPLATE.replace("<assistant>{%", f"<assistant>{written}{{%")
    prior = language_model_of(tokenizer, max_new_tokens=2)
    goes_on = [*QUESTION, {"role": "assistant", "content": "<think>"}]
    prompts, response = prior.encode([QUESTION, goes_on]), torch.tensor([[[4, 5], [4, 5]]])
    seen = []

    def ours(texts):
        seen.extend(texts)
        return [0.0] * len(texts)

    def theirs(completions):
        return ours([message["content"] for (message,) in completions])

    for function in (ours, theirs):
        TextReward(function, prior)(prompts, response)
    assert seen == [f"{begun}a b", "<think>a b"] * 2


@pytest.mark.parametrize(
    ("function", "names", "fault"),
    [
        (lambda texts, other: 0, "texts, other", "of no known signature"),
        (lambda completion, solution: 0, "completion, solution", "of no known signature"),
        (lambda answer: 0, "answer", "of no known signature"),
        (lambda **kwargs: 0, r"\*\*kwargs", "of no known signature"),
        (lambda solution_str, other: 0, "solution_str, other", "of no known signature"),
        (lambda completions, prompt: 0, "completions, prompt", "of several signatures"),
        (lambda completions, solution_str: 0, "completions, solution_str", "of several signatures"),
    ],
)
def test_parameters_of_no_signature_are_refused_by_name(prior, function, names, fault):
    message = rf"'mine' has the parameters \({names}\), {fault}: expected one of f\(texts\), "
    with pytest.raises(TypeError, match=message + r"f\(completions.* of TRL, .* of verl, .*verif"):
        TextReward(function, prior, name="mine")


def test_missing_column_is_named_with_the_columns_and_the_reward(prior, questions, response):
    def exact(completions, solution, **kwargs):
        raise AssertionError

    message = "'exact' needs the column 'solution', and the columns of the prompts are: 'answer', "
    with pytest.raises(LikelihoodError, match=message + "'topic'"):
        TextReward(exact, prior)(questions, response)
    with pytest.raises(LikelihoodError, match="'answer', and the columns of the prompts are: none"):
        TextReward(trl, prior)(prior.encode(["the film was"]), response[:, :1])


def test_choice_of_the_text_is_refused_where_prompt_and_response_are_apart(prior):
    with pytest.raises(ValueError, match=r"'trl' has the parameters of TRL.* leave out `whole`"):
        TextReward(trl, prior, whole=True)


def test_failure_names_the_text(prior, questions, response):
    async def picky(completion, answer):
        if completion == answer == "good":
            raise KeyError("no such word")
        return 0.0

    with pytest.raises(LikelihoodError, match="'picky' failed on the text 'good': KeyError"):
        TextReward(picky, prior)(questions, response)


@pytest.mark.parametrize("value", ["0.5", float("nan"), {"reward": 1.0}])
def test_value_that_is_no_reward_is_shown_with_its_text(prior, questions, response, value):
    with pytest.raises(LikelihoodError, match=r"'odd' returned .* for the text"):
        TextReward(lambda solution_str: value, prior, name="odd")(questions, response)


FILE = """
import asyncio

def ours(texts):
    return [float(text in ("the film was good", "the plot was good")) for text in texts]

def trl(completions, answer, **kwargs):
    return [float(text == right) for text, right in zip(completions, answer)]

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str == ground_truth)}

async def verifiers(prompt, completion, answer, state):
    await asyncio.sleep(0)
    return float(completion == answer)

async def ends(completion):
    raise SystemExit(0)
"""


def test_change_of_a_column_in_place_changes_no_other_reward(prior, response):
    """Lists and dicts of a column belong to all responses to the prompt."""

    def remaining(completion, answer, state):
        state["info"]["calls"] += 1
        return float(len(answer) - state["info"]["calls"]) + 0.0 * len(answer.pop())

    columns = {"answer": [["good", "bad"], ["bad"]], "info": [{"calls": 0}, {"calls": 0}]}
    prompts = prior.encode(["the film was", "the plot was"], columns=columns)
    values = TextReward(remaining, prior)(prompts, response)
    assert torch.equal(values, torch.tensor([1.0, 0.0]).double().expand_as(values))


def test_function_that_changes_its_list_of_texts_is_refused(prior, questions, response):
    """Its numbers would be those of other texts."""

    def sorts(texts):
        texts.sort()
        return map(len, texts)

    with pytest.raises(LikelihoodError, match="'sorts' changed its list of texts in place"):
        TextReward(sorts, prior)(questions, response)


@pytest.mark.parametrize("name", ["ours", "trl", "compute_score", "verifiers"])
def test_function_in_a_file_has_any_signature(prior, response, truth, tmp_path, name):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    answers = ANSWERS["answer"]
    columns = {"answer": answers, "ground_truth": answers, "data_source": ["a", "b"]}
    questions = prior.encode(["the film was", "the plot was"], columns=columns)
    values = TextReward(user_function(f"{path}:{name}"), prior)(questions, response)
    expected = truth[:, [0, 0]] if name == "ours" else truth
    assert torch.equal(values, expected)


def test_end_of_the_program_inside_an_asynchronous_function_is_an_error(
    prior, questions, response, tmp_path
):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    with pytest.raises(LikelihoodError, match="raised SystemExit"):
        TextReward(user_function(f"{path}:ends"), prior)(questions, response)


def test_rewards_of_trl_work_as_they_are():
    """One of them returns None for an answer that it cannot read."""
    rewards = pytest.importorskip("trl.rewards")
    pytest.importorskip("math_verify")
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = TEMPLATE
    prior = language_model_of(tokenizer, max_new_tokens=3)
    prompts = prior.encode([QUESTION] * 2, {"solution": ["$4$", "a city"]})
    response = torch.tensor([[[4, 5, 4], [4, 4, 4]]])
    accuracy = TextReward(rewards.accuracy_reward, prior)
    assert accuracy(prompts, response)[0, 0] == 0.0
    assert accuracy.applies(prompts).tolist() == [True, False]
    expected = {
        rewards.think_format_reward: [[0.0, 0.0]],
        rewards.get_soft_overlong_punishment(3, 2): [[-1.0, -1.0]],
        rewards.get_repetition_penalty_reward(1): [[-1 / 3, -2 / 3]],
    }
    for function, values in expected.items():
        assert TextReward(function, prior)(prompts, response).tolist() == [pytest.approx(values[0])]
