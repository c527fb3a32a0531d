"""Prompts from files and rows: read with their columns, or refused with file, row and column."""

import json
import warnings

import pytest

from model import LanguageModel
from model.data.prompt_data import PromptData, read_prompts
from model.data.record import DataError
from tests.model.tokenizers import chat, language_model_of

CHAT = [{"role": "user", "content": "a b"}]
ROWS = [
    {"prompt": "a", "answer": "4", "level": 1, "extra": {"tags": ["x", None, True, 0.5]}},
    {"prompt": CHAT, "answer": None, "level": 2.5, "extra": [1]},
    {"prompt": "", "answer": "ü\u2028 ", "level": 3, "extra": None},
]
TEXT = ["a", 'say "b",\nor not', "c"]


def json_lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "array.json", "spaced.ndjson", "rows"])
def test_prompts_are_read_with_all_columns(name, tmp_path):
    path, text = tmp_path / name, json_lines(ROWS)
    if name == "array.json":
        text = json.dumps(ROWS, indent=2)
    if name == "spaced.ndjson":
        text = "\ufeff\r\n" + text.replace("\n", "\r\n\r\n")
    path.write_bytes(text.encode())
    data = read_prompts(ROWS if name == "rows" else path)
    assert data.prompts == ("a", tuple(CHAT), "")
    expected = {name: tuple(row[name] for row in ROWS) for name in ("answer", "level", "extra")}
    assert data.columns == expected
    assert len(data) == len(data.places) == 3


def test_place_of_a_prompt_is_its_line(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n" + json_lines(ROWS), encoding="utf-8")
    places = read_prompts(tmp_path / "p.jsonl").places
    assert [place.rpartition("/")[2] for place in places] == [
        f"p.jsonl, line {n}" for n in (2, 3, 4)
    ]


def test_a_column_that_changes_its_type_is_warned_of(tmp_path):
    """Also late in a file; an integer and a float are numbers, and null is no type."""
    rows = [{"prompt": "a", "answer": answer} for answer in (3, None, 3.5, "3")]
    (tmp_path / "p.jsonl").write_text(json_lines(rows))
    with pytest.warns(UserWarning, match=r"p.jsonl, line 4: column 'answer' is a str, and a num"):
        assert read_prompts(tmp_path / "p.jsonl").columns["answer"] == (3, None, 3.5, "3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_prompts(tmp_path / "p.jsonl", limit=3)


@pytest.mark.parametrize(("name", "between"), [("p.csv", ","), ("p.tsv", "\t")])
def test_cells_are_texts_and_may_have_quotes_and_line_breaks(name, between, tmp_path):
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXT]
    lines = [between.join([text, "007"]) for text in quoted]
    path = tmp_path / name
    path.write_text("\n".join([between.join(["question", "answer"]), *lines, ""]), encoding="utf-8")
    data = read_prompts(path, prompt_column="question")
    assert list(data.prompts) == TEXT
    assert data.columns == {"answer": ("007",) * 3}
    assert [place.rpartition(" ")[2] for place in data.places] == ["2", "3", "5"]


def test_messages_in_csv_are_a_json_array(tmp_path):
    cell = json.dumps(CHAT).replace('"', '""')
    (tmp_path / "p.csv").write_text(f'prompt\n"{cell}"\n[a] b\n')
    assert read_prompts(tmp_path / "p.csv").prompts == (tuple(CHAT), "[a] b")
    (tmp_path / "p.csv").write_text(f'prompt\n"{CHAT}"\n')
    with pytest.raises(DataError, match=r"line 2: column 'prompt' begins as messages .*json.dumps"):
        read_prompts(tmp_path / "p.csv")


def test_columns_and_limit_choose_values_and_rows(tmp_path):
    rows = [*ROWS[:2], {"prompt": "c"}, {"prompt": None}]
    (tmp_path / "p.jsonl").write_text(json_lines(rows), encoding="utf-8")
    data = read_prompts(tmp_path / "p.jsonl", columns=["answer"], limit=2)
    assert data.columns == {"answer": ("4", None)}
    assert read_prompts(tmp_path / "p.jsonl", columns=[], limit=3).columns == {}
    with pytest.raises(ValueError, match="limit is 0"):
        read_prompts(tmp_path / "p.jsonl", limit=0)


def test_keys_that_a_table_fills_with_null_are_dropped():
    filled = [{"role": "user", "content": "a", "name": None}]
    assert read_prompts([{"prompt": filled}]).prompts == (({"role": "user", "content": "a"},),)


GOOD = '{"prompt": "a", "x": 1}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a"}', "line 1: column 'prompt' is missing, got 'question': name the"),
        (GOOD + '{"x": 1}', "line 2: column 'prompt' is missing, got 'x'"),
        (GOOD + '{"prompt": null, "x": 1}', r"line 2: column 'prompt' is None \(NoneType\)"),
        (GOOD + '{"prompt": 3, "x": 1}', r"line 2: column 'prompt' is 3 \(int\), expected a text"),
        (GOOD + '{"prompt": [], "x": 1}', r"line 2: column 'prompt' is \[\] \(list\)"),
        (GOOD + '{"prompt": ["a"], "x": 1}', r"line 2: column 'prompt' is \['a'\] \(list\)"),
        (
            '{"prompt": [{"from": "human", "value": "a"}]}',
            "column 'prompt' has the keys .'from', 'value'., expected .* rename `from` and `value`",
        ),
        (
            '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}',
            r"message 0 of .*line 1: column 'prompt' is \[.*\(list\), expected a text: join",
        ),
        (GOOD + '{"prompt": "a"}', "line 2: column 'x' is missing, got 'prompt': write null"),
        (GOOD + '{"prompt": "a", "x": 1, "y": 2}', "line 2: column 'y' is not in the first row"),
        (GOOD + '{"prompt": "a"', r"line 2: not JSON \(Expecting ',' delimiter at column 15\)"),
        (GOOD + '"a"', r"line 2: got 'a' \(str\), expected an object"),
        (GOOD + '{"prompt": "a", "prompt": "b"}', "line 2: an object has the name 'prompt' twice"),
        (GOOD + '{"prompt": "a", "x": NaN}', "line 2: column 'x' has the number nan, expected fin"),
        (GOOD + '{"prompt": "a", "x": {"y": [1e999]}}', "line 2: column 'x' has the number inf"),
        (GOOD + '{"prompt": "a\\ud83d", "x": 1}', "line 2: column 'prompt' has '.ud83d' at char"),
        (GOOD + '{"prompt": "a", "x": ["\\ud83d"]}', "item 0 of .*line 2: column 'x' has '.ud83d'"),
        ('[\n{"prompt": "a"},\n{"prompt" "b"}\n]', "line 3: not JSON .Expecting ':' .* column 11"),
        ('[{"prompt": "a"}, 3]', r"item 1: got 3 \(int\), expected an object"),
        (
            '{\n"prompt": "a"\n}',
            r"line 1: not JSON .*or one array of .*one object over several lines.*\['prompt'\]",
        ),
        ('{\n"prompt": "a', r"line 1: not JSON .*or one array of objects in brackets$"),
        ("The film was\n", "line 1: not JSON .* Prompts as plain lines are for `--prompts-file`"),
        ("", "has no records, expected at least one"),
        ("[]", "has no records"),
        ("\n \n", "has no records"),
    ],
)
def test_file_in_json_is_refused_with_line_and_column(text, message, tmp_path):
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as error:
        read_prompts(tmp_path / "p.jsonl")
    assert "p.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,x\na,1\na,b,c\n", "line 3 has 3 cells, the header has 2: is a cell with a delim"),
        ("prompt,x\na\n", "line 2 has 1 cells, the header has 2"),
        ("prompt,prompt\na,b\n", "line 1: the header has 'prompt' twice"),
        (",prompt\n0,a\n", r"line 1: column 1 has no name, .*index=False"),
        ('prompt\na\n"b\nc\n', "line 3: unexpected end of data, expected quotes"),
        ('prompt\n"a" b\n', "line 2: ',' expected after '\"', expected quotes"),
        ("prompt,x\n,1\n", "line 2: column 'prompt' is an empty cell"),
        ("prompt\n", "has no records"),
        ("", "has no records"),
        ("prompt\n" + "a" * 140_000, r"line 2: field larger than field limit"),
    ],
)
def test_file_in_csv_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"p.csv.*{message}"):
        read_prompts(tmp_path / "p.csv")


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_file_in_another_encoding_is_refused_with_its_line(name, tmp_path):
    (tmp_path / name).write_bytes("prompt\nein schöner Film\n".encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}, line 2 is not UTF-8 text: byte 8"):
        read_prompts(tmp_path / name)


def test_file_that_is_missing_or_packed_or_has_no_splits_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: No such file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"p.jsonl.gz is packed"):
        read_prompts(tmp_path / "p.jsonl.gz")
    (tmp_path / "p.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"split is 'test', which .*p.jsonl, one file has not"):
        read_prompts(tmp_path / "p.jsonl", split="test")
    with pytest.raises(DataError, match="one mapping"):
        read_prompts({"train": [{"prompt": "a"}]})
    with pytest.raises(ValueError, match=r"columns got 'x' \(str\)"):
        read_prompts([{"prompt": "a", "x": 1}], columns="x")
    with pytest.raises(TypeError, match="source is a int"):
        read_prompts(3)


@pytest.fixture(scope="module")
def prior() -> LanguageModel:
    tokenizer = chat("<bos> $A")
    tokenizer.chat_template = (
        "<bos>{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
        "{% endif %} <user> {{ m.content }} <end>{% endfor %} <assistant>"
    )
    return language_model_of(tokenizer, max_new_tokens=2)


def test_data_become_prompts_with_columns_and_system(prior):
    prompts = read_prompts(ROWS[:2]).encode(prior, system="c")
    assert prompts.texts == (
        "<bos> <user> c <end> <user> a <end> <assistant>",
        "<bos> <user> c <end> <user> a b <end> <assistant>",
    )
    assert prompts.columns["answer"] == ("4", None)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a " * 70, "column 'prompt' has 71 tokens .*over the network's context of 64"),
        ([{"role": "tool", "content": "a"}], "refuses .*column 'prompt', with the roles"),
    ],
)
def test_prompt_that_cannot_be_encoded_is_named_by_file_and_line(prompt, message, prior, tmp_path):
    (tmp_path / "p.jsonl").write_text(json_lines([{"prompt": "a"}, {"prompt": prompt}]))
    data = read_prompts(tmp_path / "p.jsonl")
    assert isinstance(data, PromptData)
    with pytest.raises(ValueError, match=message) as error:
        data.encode(prior)
    assert "p.jsonl, line 2: column 'prompt'" in str(error.value)


def test_long_prompts_are_left_out_with_their_columns(prior):
    data = read_prompts([{"prompt": "a " * n, "n": n} for n in (1, 70, 3)])
    short = data.without_long(prior, 4)
    assert len(data) - len(short) == 1
    assert short.encode(prior).columns == {"n": (1, 3)}
    assert short.places == ("record 0", "record 2")
    assert len(data.without_long(prior, 71)) == 3
    assert len(data.without_long(prior, 10, system="b")) == 2
    with pytest.raises(DataError, match="all 3 prompts have more than 1 tokens, the"):
        data.without_long(prior, 1)
