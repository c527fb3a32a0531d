"""Preferences from files and records: read, or refused with their place."""

import json

import pytest

from model.preferences import (
    Preference,
    PreferenceError,
    read_preferences,
    split_preferences,
    write_preferences,
)

GOOD = {"prompt": "The film", "chosen": " shone.", "rejected": " dragged."}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_written_preferences_are_read(tmp_path):
    preferences = [
        Preference("Ein Film", " süß\u2028und\nlang", " fad"),
        Preference("", "a", "a", tie=True),
        Preference("p", " b", " c", tie=True),
    ]
    write_preferences(tmp_path / "pairs.jsonl", preferences)
    assert read_preferences(tmp_path / "pairs.jsonl") == preferences
    assert read_preferences(str(tmp_path / "pairs.jsonl")) == preferences


def test_records_of_any_iterable_with_more_columns():
    (preference,) = read_preferences(iter([GOOD | {"score": 3}]))
    assert preference == Preference(**GOOD)
    assert preference.texts == ("The film shone.", "The film dragged.")


def test_prompts_in_a_column_of_another_name():
    row = {"question": "The film", "chosen": " so good.", "rejected": " so bad."}
    refusal = r"column 'question' has 'The film'.*--prompt-column question"
    with pytest.raises(PreferenceError, match=refusal):
        read_preferences([row])  # the prompt would be " so"
    (preference,) = read_preferences([row], prompt_column="question")
    assert preference == Preference("The film", " so good.", " so bad.")
    whole = {name: f"The film{text}" for name, text in row.items() if name != "question"}
    assert read_preferences([row | whole])[0].prompt == "The film so"
    with pytest.raises(PreferenceError, match="column 'query' is missing"):
        read_preferences([row], prompt_column="query")


RECORDS = {
    r"'rejected' is missing, got 'prompt', 'chosen'": {"prompt": "a", "chosen": "b"},
    r"'prompt' is missing.*write an empty prompt": {"chosen": "b", "rejected": "c"},
    "texts and chats, expected prompt and responses of one kind": GOOD
    | {"chosen": [{"role": "user", "content": "x"}]},
    r"'chosen' is None \(NoneType\), expected a text": GOOD | {"chosen": None},
    "'tie' is 1, expected true or false": GOOD | {"tie": 1},
    'the same text.*"tie": true': GOOD | {"chosen": " dragged."},
    r"'rejected' has '.ud83d' at character 2, half of a surrogate pair": GOOD
    | {"rejected": " a\ud83d"},
    "'prompt' and 'chosen' are both empty": {"prompt": "", "chosen": "", "rejected": "x"},
    "'prompt' and 'rejected' are both empty": {
        "prompt": "",
        "chosen": "x",
        "rejected": "",
        "tie": True,
    },
    r"got 3 \(int\), expected an object with a value by column": 3,
}


@pytest.mark.parametrize("message", RECORDS)
def test_a_record_that_is_no_preference_is_refused_with_its_line(tmp_path, message):
    record = RECORDS[message]
    path = write(tmp_path / "pairs.jsonl", GOOD, record)
    with pytest.raises(PreferenceError, match=rf"pairs.jsonl, line 2: .*{message}"):
        read_preferences(path)
    with pytest.raises(PreferenceError, match=rf"^record 1: .*{message}"):
        read_preferences([GOOD, record])


def test_a_response_may_be_empty_after_a_prompt_and_emojis_are_whole(tmp_path):
    path = write(tmp_path / "pairs.jsonl", GOOD | {"chosen": ""}, GOOD | {"chosen": " \U0001f600"})
    assert [preference.chosen for preference in read_preferences(path)] == ["", " \U0001f600"]


@pytest.mark.parametrize(("share", "expected"), [(0.1, 1), (0.5, 2), (0.99, 2)])
def test_however_small_the_share_a_pair_is_held_out_and_one_is_not(share, expected):
    train, held_out = split_preferences([Preference("", f"a{i}", f"b{i}") for i in range(3)], share)
    assert (len(train), len(held_out)) == (3 - expected, expected)


def test_split_keeps_a_pair_of_texts_on_one_side():
    pairs = [Preference("", f"a{i}", f"b{i}") for i in range(20)]
    turned = [Preference("", pair.rejected, pair.chosen) for pair in pairs]
    train, held_out = split_preferences([*pairs, *turned], 0.25, seed=1)
    assert len(held_out) == 10
    assert len(train) == 30
    assert not {frozenset(p.texts) for p in train} & {frozenset(p.texts) for p in held_out}
    assert split_preferences(iter([*pairs, *turned]), 0.25, seed=1)[1] == held_out
    assert split_preferences([*pairs, *turned], 0.25, seed=2)[1] != held_out
    with pytest.raises(PreferenceError, match="at least two"):
        split_preferences([pairs[0], turned[0]])
    with pytest.raises(ValueError, match="held_out is 1"):
        split_preferences(pairs, 1)
