"""Texts from lists, arrays and files of any system; other values are refused with their place."""

import numpy as np
import pytest
import torch
from transformers import GPT2ForSequenceClassification

from model import (
    Pattern,
    Prompts,
    SequenceClassifier,
    TextLikelihood,
    read_preferences,
    vader_sentiment,
)
from model.common.texts import TextFileError, listed_texts, read_lines
from model.preferences import EncoderFeatures, PreferenceError, PriorFeatures
from tests.model.tiny import encoder, tiny, tiny_tokenizer

TEXTS = ["a b", "c"]
LINE = '{"prompt": "a", "chosen": " b", "rejected": " \u00e9"}'


class Series:
    """A stand-in for a series of pandas: iterable, with a length, and of no truth value."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __bool__(self):
        raise ValueError("The truth value of a Series is ambiguous")


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        Series(TEXTS),
        (text for text in TEXTS),
    ],
    ids=["list", "tuple", "array", "array of objects", "series", "generator"],
)
def test_any_sequence_of_texts_is_encoded(texts):
    prompts = tiny().encode(texts)
    assert prompts.texts == ("a b", "c")
    assert {type(text) for text in prompts.texts} == {str}
    assert prompts.rows() == [[2, 3], [4]]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("a b", ValueError, "encode got 'a b' .str., expected a non-empty list of strings"),
        ([], ValueError, "expected a non-empty list of strings"),
        (Series([]), ValueError, "expected a non-empty list of strings"),
        (b"a b", TypeError, "bytes"),
        (3, TypeError, "encode got 3 .int."),
        (np.array("a"), TypeError, "encode got array"),
        (None, TypeError, "encode got None"),
        ({"a": 1}, TypeError, "dict"),
        ({"a", "b"}, TypeError, "set"),
        (["a", None], TypeError, r"None \(NoneType\) at index 1, expected a text: a missing value"),
        (
            ["a", float("nan")],
            TypeError,
            r"nan \(float\) at index 1, expected a text: a missing value",
        ),
        ([1], TypeError, r"1 \(int\) at index 0, expected a text$"),
        (["a", b"b"], TypeError, "index 1, expected a text: decode it"),
        (["a", ("a", "b")], TypeError, "index 1, expected a text, or messages .*, and no pair"),
        ([["a", "b"]], TypeError, "index 0, expected a text, or messages .*, and no pair"),
        (torch.tensor([1, 2]), TypeError, "index 0"),
        (
            ["a", "a\ud83d"],
            ValueError,
            r"text 1 has '.ud83d' at character 1, half of a surrogate pair",
        ),
    ],
)
def test_value_that_is_no_text_is_refused_with_its_index(texts, error, message):
    with pytest.raises(error, match=message):
        tiny().encode(texts)
    with pytest.raises(error):
        listed_texts("encode", texts)


@pytest.mark.parametrize(
    "data",
    [
        b"the film\nthe plot \xc3\xa9",
        b"\xef\xbb\xbfthe film\nthe plot \xc3\xa9",
        b"the film\r\nthe plot \xc3\xa9",
        b"\xef\xbb\xbfthe film\rthe plot \xc3\xa9",
    ],
    ids=["unix", "byte order mark", "windows", "old mac"],
)
def test_lines_are_those_of_any_system(data, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(data)
    assert read_lines(tmp_path / "prompts.txt") == ["the film", "the plot \u00e9"]


def test_separators_inside_a_text_end_no_line(tmp_path):
    (tmp_path / "prompts.txt").write_text("a\u2028b\x0cc\x85d\n", encoding="utf-8")
    assert read_lines(str(tmp_path / "prompts.txt")) == ["a\u2028b\x0cc\x85d", ""]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "a\nb c\u00e9\n".encode("latin-1"),
            "line 2 is not UTF-8 text: byte 4 of the line is 0xe9. Is the file in Latin-1",
        ),
        (
            "a\nb\n".encode("utf-16"),
            "line 1 is not UTF-8 text: byte 1 of the line is 0xff. Is the file in UTF-16",
        ),
        ("a\nb\n".encode("utf-16-le"), "line 1 has a zero byte"),
    ],
)
def test_file_in_another_encoding_is_refused_with_line_and_byte(data, message, tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(data)
    with pytest.raises(TextFileError, match=f"file.txt, {message}"):
        read_lines(path)
    with pytest.raises(PreferenceError, match=f"file.txt, {message}"):
        read_preferences(path)


def test_file_that_cannot_be_read_is_refused(tmp_path):
    for path, message in ((tmp_path / "nowhere.txt", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TextFileError, match=message):
            read_lines(path)


def readers():
    """By name, all that takes texts."""
    prior = tiny()
    features = EncoderFeatures(encoder(), tiny_tokenizer())
    classifier = GPT2ForSequenceClassification(prior.network.config)
    return {
        "vader": vader_sentiment,
        "pattern": Pattern("a"),
        "count": Pattern("a", count=True),
        "likelihood": TextLikelihood(prior.network, prior.tokenizer),
        "classifier": SequenceClassifier(classifier, tiny_tokenizer(), 0),
        "prior features": PriorFeatures(prior),
        "encoder features": features,
    }


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": ' + "1" * 5000 + "}",
        '{"a": ' * 100_000,
        '{"prompt": "a"} {"prompt": "b"}',
        "\ufeff\ufeff{}",
    ],
)
def test_line_that_cannot_be_read_as_json_is_named(line, tmp_path):
    """Every failure of Python's reader is a refusal."""
    (tmp_path / "pairs.jsonl").write_text(LINE + "\n" + line, encoding="utf-8")
    with pytest.raises(PreferenceError, match=r"pairs.jsonl, line 2: not JSON \("):
        read_preferences(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("name", ["vader", "pattern", "likelihood", "classifier"])
def test_no_texts_have_no_rewards(name):
    assert len(readers()[name]([])) == 0


@pytest.mark.parametrize("name", readers())
def test_every_reader_of_texts_refuses_other_values(name):
    """Refused values include a single string, of which each letter would be a text."""
    reader = readers()[name]
    assert len(reader(np.array(["a b", "c"]))) == 2
    for texts in ("a b", b"a b", ["a", None], ["a", ("a", "b")], [float("nan")], ["a\ud83d"], 3):
        with pytest.raises((TypeError, ValueError), match=r"expected a|half of a surrogate pair"):
            reader(texts)


# Prompts made by hand

IDS, MASK = torch.tensor([[2, 3], [0, 4]]), torch.tensor([[True, True], [False, True]])


@pytest.mark.parametrize(
    ("texts", "ids", "mask", "message"),
    [
        (("a b",), IDS, MASK, r"ids is \(2, 2\), expected a tensor \[1, P\]"),
        (("a b", "c"), IDS[0], MASK, r"ids is \(2,\)"),
        (("a b", "c"), IDS.tolist(), MASK, "ids is list"),
        (("a b", "c"), IDS, MASK[:, :1], r"ids have shape \(2, 2\) .* the mask \(2, 1\)"),
        (("a b", "c"), IDS.float(), MASK, "type torch.float32"),
        (("a b", "c"), IDS, MASK.long(), "torch.int64, expected one shape, integers and booleans"),
        (("a b", "c"), IDS, MASK.flip(1), "not padded on the left"),
        (("a b", "c"), IDS, MASK & False, "empty or not padded on the left"),
        ((), IDS[:0], MASK[:0], "got 0 prompts"),
    ],
)
def test_prompts_made_by_hand_are_checked(texts, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        Prompts(texts, ids, mask)
