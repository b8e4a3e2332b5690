"""Tables, prompts, answers and tokens of text tasks, and what is wrong with them."""

import datetime
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mergeloom.config.presets import load_presets, schema_named
from mergeloom.data.answers import answer_texts, answer_values, bare, places_of
from mergeloom.data.prompts import fields_of, prompted
from mergeloom.data.text_sources import read_tables
from mergeloom.data.text_splits import split_texts
from mergeloom.data.text_tables import read_table
from mergeloom.data.texts import (
    answers_of,
    read_prompts,
    tokenize_split,
    write_answers,
)
from mergeloom.data.tokenizer import encode, read_tokenizer
from mergeloom.data.tokenizer_training import train_tokenizer
from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import write_json
from mergeloom.io.tensors import TensorFile

CONFIG = Path(__file__).parents[2] / "config"
SCORES = {"number": "{:.1f}", "start": 0, "stop": 5, "step": 0.1}
TASK = {"prompt": "Is '{sentence}' good?", "answers": ["no", "yes"], "source": "tables"}
FIELDS = ["sentence"]
# The prompts of glue_v1, by heart: checkpoints know them to the letter.
GLUE = {
    "cola": (1043, "Indicate if the following sentence is grammatically correct or not: "
             '"{sentence}". ' "Answere 'acceptable' or 'unacceptable'."),
    "mnli": (9815, "Does the premise: '{premise}' logically imply, contradict, or is neutral to "
             "the hypothesis: '{hypothesis}'? Answere with 'entailment', 'contradiction', or "
             "'neutral'."),
    "mrpc": (408, "Are the following sentences '{sentence1}' and '{sentence2}' conveying the same "
             "meaning? Answere with 'yes' or 'no'."),
    "qnli": (5463, "Given the context: '{sentence}', does the question '{question}' have an answer "
             "based on the information provided? Answer with 'yes' or 'no'."),
    "qqp": (40430, "Do the questions '{question1}' and '{question2}' have the same intent? Answere "
            "with 'yes' or 'no'."),
    "rte": (277, "Does the text: '{sentence1}' entail that '{sentence2}' is true? Provide 'yes' or "
            "'no'."),
    "sst2": (872, "Given the sentence '{sentence}', determine the sentiment. Is it positive or "
             "negative?"),
    "stsb": (1500, "Consider the sentences '{sentence1}' and '{sentence2}'. On a scale from 1 "
             "(completely different) to 5 (completely similar), rate the similarity."),
}  # fmt: skip


@pytest.fixture(scope="module")
def presets():
    return load_presets("tasks", [CONFIG], schema_named(CONFIG / "schema", "tasks"))


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_tokenizer(["is the dog good?", "is the cat good?", "yes", "no"] * 3, 300, path, "mine")
    return path


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", GLUE)
def test_glue_is_asked_as_its_checkpoints_were_trained(name, presets):
    task = presets[name]
    count, prompt = GLUE[name]
    assert task["prompt"] == prompt
    assert task["source"]["counts"]["test"] == count
    assert all("validation" in glob for glob in task["source"]["files"]["test"])
    assert "val" not in task["source"]["files"]


def test_glue_answers_by_label(presets):
    answers = {name: presets[name]["answers"] for name in GLUE if name != "stsb"}
    assert answers == {
        "cola": ["unacceptable", "acceptable"],
        "mnli": ["entailment", "neutral", "contradiction"],
        "mrpc": ["no", "yes"],
        "qnli": ["yes", "no"],
        "qqp": ["no", "yes"],
        "rte": ["yes", "no"],
        "sst2": ["negative", "positive"],
    }
    assert answer_texts(presets["stsb"]["answers"]) == [f"{n / 10:.1f}" for n in range(51)]
    assert {name for name in GLUE if "metric" in presets[name]} == {"cola", "stsb"}


def test_a_prompt_names_columns_and_may_have_braces_of_its_own():
    prompt = "{{json}} '{b}' after '{a}' and '{b}'"
    assert fields_of(prompt) == ["b", "a"]
    asked = prompted(prompt, {"a": ["{x}", "2"], "b": ["one", "%s"]})
    assert list(asked) == ["{json} 'one' after '{x}' and 'one'", "{json} '%s' after '2' and '%s'"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Is it {sentence?", "expected '}' before end of string"),
        ("Is it {}?", "'' is no name of a column"),
        ("Is it {a.b}?", "'a.b' is no name of a column"),
        ("Is it {a:>3}?", "'a' is no name of a column; write {sentence}"),
        ("Is it good?", "names no column"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt, message):
    with pytest.raises(MergeloomError, match=message):
        fields_of(prompt)


def test_numbers_are_rounded_as_their_format_does():
    texts = answer_texts(SCORES)
    places = places_of(SCORES, texts, [0.0, 0.04, 3.75, 3.8, 4.999, "2.5", 5], "table")
    assert [texts[i] for i in places] == ["0.0", "0.0", "3.8", "3.8", "5.0", "2.5", "5.0"]
    np.testing.assert_array_equal(answer_values(SCORES), np.arange(51) / 10)
    assert answer_values(["no", "yes"]) is None


def test_a_number_that_rounds_to_zero_has_no_sign():
    answers = {"number": "{:.1f}", "start": -1, "stop": 1, "step": 0.5}
    texts = answer_texts(answers)
    assert texts == ["-1.0", "-0.5", "0.0", "0.5", "1.0"]
    assert places_of(answers, texts, [-0.02, -0.5, "-0.0"], "t").tolist() == [2, 1, 2]


@pytest.mark.parametrize("form", ["{:.0f}", "{}", "{:g}"])
def test_whole_numbers_are_answers_as_their_format_writes_them(form):
    answers = {"number": form, "start": 1, "stop": 3, "step": 1}
    texts = answer_texts(answers)
    assert texts == [form.format(float(n)) for n in (1, 2, 3)]
    assert places_of(answers, texts, [3, 1.0, "2"], "t").tolist() == [2, 0, 1]


def test_a_format_of_integers_is_refused_before_any_label_is_read():
    with pytest.raises(MergeloomError, match=r"'{:d}' writes no number .*'{:.0f}' of whole"):
        answer_texts({"number": "{:d}", "start": 1, "stop": 3, "step": 1})


def test_labels_are_places_or_texts_of_answers():
    assert places_of(["no", "yes"], ["no", "yes"], [1, "no", "1", True, 0.0], "t").tolist() == [
        1, 0, 1, 1, 0,
    ]  # fmt: skip
    assert places_of(["True", "False"], ["True", "False"], [True, False], "t").tolist() == [0, 1]
    # A text that is an answer is no place.
    assert places_of(["1", "0"], ["1", "0"], ["1", "0", 1], "t").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "label",
    [
        -1, 2, 0.5, "maybe", "-1", float("nan"), float("inf"), "inf", [1],
        datetime.date(2020, 1, 1), b"1", {"yes": 1},
    ],
)  # fmt: skip
def test_a_label_outside_the_answers_names_row_and_answers(label):
    with pytest.raises(MergeloomError, match=r"t: row 1: label .* none of the 2 answers \('no', "):
        places_of(["no", "yes"], ["no", "yes"], [0, label], "t")
    if label not in (2, 0.5):
        with pytest.raises(MergeloomError, match=r"none of the 51 answers \('0.0', '0.1', '0.2'"):
            places_of(SCORES, answer_texts(SCORES), [label], "t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": "{:.0f}"}, r"writes 0 for two numbers 0.1 apart"),
        ({"number": "{:d}"}, r"'{:d}' writes no number"),
        ({"number": "{:.1f} points"}, r"writes no number"),
        ({"stop": -1}, "no number between 0 and -1"),
    ],
)
def test_numbers_that_cannot_be_told_apart_are_refused(change, message):
    with pytest.raises(MergeloomError, match=message):
        answer_texts(SCORES | change)


def test_a_table_is_parquet_csv_tsv_or_json_lines(tmp_path):
    expected = {"sentence": ["a, b", "42"], "label": [1, 0]}
    table(tmp_path / "t.parquet", sentence=["a, b", "42"], label=[1, 0], more=[None, "x"])
    (tmp_path / "t.csv").write_text('label,sentence,more\n1,"a, b",\n0,42,x\n')
    (tmp_path / "t.tsv").write_text("label\tsentence\nyes\ta, b\nno\t42\n")
    (tmp_path / "t.jsonl").write_text(
        '{"sentence": "a, b", "label": 1}\n{"sentence": "42", "label": 0}\n'
    )
    for kind in ("parquet", "csv", "tsv", "jsonl"):
        path = tmp_path / f"t.{kind}"
        assert read_table(path, path.name, FIELDS, TASK) == expected
    scored = TASK | {"answers": SCORES}
    table(tmp_path / "s.parquet", sentence=["a"], gold=[3.756])
    read = read_table(tmp_path / "s.parquet", "s.parquet", FIELDS, scored, label="gold")
    assert read == {"sentence": ["a"], "label": [3.756]}


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("answers", "labels", "places"),
    [
        (["true", "false"], ["true", "false"], [0, 1]),
        (["1", "0"], ["1", "0"], [0, 1]),
        (["1", "2", "3"], ["1", "2", "3"], [0, 1, 2]),
        (["01", "02"], ["01", "02"], [0, 1]),
        (["no", "yes"], ["1.0", "0"], [1, 0]),
        (SCORES, ["3.75", "1"], [3.75, 1.0]),
    ],
)
def test_labels_of_csv_and_tsv_are_texts_before_they_are_places(
    suffix, answers, labels, places, tmp_path
):
    path, comma = tmp_path / f"t.{suffix}", {"csv": ",", "tsv": "\t"}[suffix]
    rows = [f"text {i}{comma}{label}\n" for i, label in enumerate(labels)]
    path.write_text(f"sentence{comma}label\n" + "".join(rows))
    read = read_table(path, path.name, FIELDS, TASK | {"answers": answers})
    assert read["label"] == places


def test_an_empty_label_of_csv_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("sentence,label\na,1\nb,\n")
    with pytest.raises(MergeloomError, match="row 1: column 'label' is empty"):
        read_table(tmp_path / "t.csv", "t.csv", FIELDS, TASK)


def test_a_quote_in_tsv_is_a_character_and_a_line_is_a_row(tmp_path):
    (tmp_path / "t.tsv").write_text('sentence\tlabel\n"a b\t1\n"c, d\t0\ne "f"\t1\n')
    read = read_table(tmp_path / "t.tsv", "t.tsv", FIELDS, TASK)
    assert read == {"sentence": ['"a b', '"c, d', 'e "f"'], "label": [1, 0, 1]}
    (tmp_path / "t.csv").write_text('sentence,label\n"a\nb",1\n"c, ""d""",0\n')
    read = read_table(tmp_path / "t.csv", "t.csv", FIELDS, TASK)
    assert read == {"sentence": ["a\nb", 'c, "d"'], "label": [1, 0]}


@pytest.mark.parametrize("label", [[1], datetime.date(2020, 1, 1)])
@pytest.mark.parametrize("answers", [["no", "yes"], "any", SCORES])
def test_a_label_of_another_kind_names_its_row(answers, label, tmp_path):
    path = table(tmp_path / "t.parquet", sentence=["a"], label=[label])
    with pytest.raises(MergeloomError, match=r"t.parquet: row 0: label .* is no"):
        read_table(path, "t.parquet", FIELDS, TASK | {"answers": answers})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": ["a"], "label": [0]},
            r"t.parquet: has no column 'sentence'; it has: text, label",
        ),
        ({"sentence": ["a"]}, r"has no column 'label'; .*`source.columns.label`"),
        (
            {"sentence": ["a", " "], "label": [0, 1]},
            r"row 1: column 'sentence' is empty.*allow_emp",
        ),
        ({"sentence": ["a", None], "label": [0, 1]}, r"row 1: column 'sentence' is empty"),
        ({"sentence": ["a", "b"], "label": [0, None]}, r"row 1: column 'label' is empty"),
        ({"sentence": [1.5], "label": [0]}, r"column 'sentence' is double; expected texts"),
        ({"sentence": ["a"], "label": [-1]}, r"row 0: label -1 is none of .*labels are hidden"),
        ({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "has no rows"),
    ],
)
def test_a_table_that_lacks_something_says_what_and_where(columns, message, tmp_path):
    path = table(tmp_path / "t.parquet", **columns)
    with pytest.raises(MergeloomError, match=message):
        read_table(path, "t.parquet", FIELDS, TASK)


def test_a_text_may_be_empty_where_the_preset_says_so(tmp_path):
    path = table(tmp_path / "t.parquet", sentence=["", "b"], label=[0, 1])
    read = read_table(path, "t.parquet", FIELDS, TASK | {"allow_empty": True})
    assert read["sentence"] == ["", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", "no", "t.parquet: is no parquet table, or is damaged"),
        ("t.jsonl", "{'a'", "t.jsonl: is no jsonl table, or is damaged"),
        ("t.csv", "sentence,label\na,1\nb\n", "t.csv: is no csv table, or is damaged"),
        ("t.xlsx", "", "t.xlsx: is none of .parquet, .csv, .tsv, .jsonl"),
    ],
)
def test_a_file_that_is_no_table_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(MergeloomError, match=message):
        read_table(tmp_path / name, name, FIELDS, TASK)


def test_tables_of_a_split_follow_each_other_and_are_counted(tmp_path):
    paths = [table(tmp_path / f"{i}.parquet", sentence=[f"text {i}"], label=[i]) for i in (0, 1)]
    tables = [(path.name, path) for path in paths]
    task = TASK | {"fields": FIELDS, "source": {"files": {}, "counts": {"train": 2}}}
    assert read_tables(tables, task, "train", "mine")["sentence"] == ["text 0", "text 1"]
    task["source"]["counts"]["train"] = 3
    with pytest.raises(MergeloomError, match=r"mine, train: has 2 rows, but .*`counts` say 3"):
        read_tables(tables, task, "train", "mine")


def test_validation_texts_are_drawn_by_the_seed_and_train_no_more(tmp_path):
    sentences = [f"text {i}" for i in range(40)]
    tables = {
        "train": table(tmp_path / "train.parquet", sentence=sentences, label=[0, 1] * 20),
        "test": table(tmp_path / "test.parquet", sentence=["other"], label=[0]),
    }
    drawn = [
        split_texts(tables, FIELDS, TASK, seed, False, "mine")["validation"] for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    write_json(tmp_path / "splits.json", split_texts(tables, FIELDS, TASK, 0, False, "mine"))
    record = tmp_path / "splits.json"
    train, val = (
        read_prompts(tables["train"], TASK, ["no", "yes"], record, s) for s in ("train", "val")
    )
    test, _ = read_prompts(tables["test"], TASK, ["no", "yes"], record, "test")
    assert len(val[0]) == 4
    assert sorted(train[0] + val[0]) == sorted(f"Is '{s}' good?" for s in sentences)
    assert all(int(t.split("text ")[1][:-7]) % 2 == n for t, n in zip(*val, strict=True))
    assert test == ["Is 'other' good?"]


def test_splits_that_share_texts_are_refused_unless_allowed(tmp_path):
    tables = {
        "train": table(tmp_path / "train.parquet", sentence=list("abcdefghijkl"), label=[0] * 12),
        "test": table(tmp_path / "test.parquet", sentence=["c", "z"], label=[1, 1]),
    }
    with pytest.raises(MergeloomError, match=r"mine: splits share texts, word for word") as error:
        split_texts(tables, FIELDS, TASK, 0, False, "mine")
    assert "1 of the 12 texts of train and 1 of the 2 of test are the same" in str(error.value)
    assert "train.parquet: row 2 = test.parquet: row 0" in str(error.value)
    record = split_texts(tables, FIELDS, TASK, 0, True, "mine")
    assert record["overlap"][0]["texts"] == [1, 1]
    assert record["excluded"] == [2]


def test_too_few_rows_to_validate_on_are_an_error(tmp_path):
    tables = {
        split: table(tmp_path / f"{split}.parquet", sentence=[split], label=[0])
        for split in ("train", "test")
    }
    with pytest.raises(MergeloomError, match=r"a tenth of the 1 training examples.*split `val`"):
        split_texts(tables, FIELDS, TASK, 0, False, "mine")


def test_any_answers_are_those_that_occur_in_any_split(tmp_path):
    task = {"prompt": "{text}", "answers": "any"}
    tables = [
        table(tmp_path / f"{i}.parquet", text=["x", "y"], label=labels)
        for i, labels in enumerate((["b", "c"], ["a", "b"]))
    ]
    assert answers_of(task, tables) == ["a", "b", "c"]
    _, labels = read_prompts(tables[0], task, ["a", "b", "c"])
    assert labels.tolist() == [1, 2]


def test_special_tokens_are_the_first_and_every_text_ends(tokenizer):
    read = read_tokenizer(tokenizer)
    assert [read.id_to_token(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    tokens = encode(read, ["is the dog good?", "no", ""], 64)[0]
    assert tokens.dtype.itemsize == 4
    real = (tokens != 0).sum(1).tolist()
    assert [row[n - 1] for row, n in zip(tokens.tolist(), real, strict=True)] == [1, 1, 1]
    assert real[2] <= 2
    assert max(real) == tokens.shape[1]


def test_texts_come_back_and_none_has_an_unknown_token(tokenizer):
    read = read_tokenizer(tokenizer)
    texts = ["is the dog good?", "3.8", "Füße — 漢字 <b>", "a  b\n{c}", "0.5 and 12.25"]
    tokens = encode(read, texts, 512)[0]
    assert not (tokens == 2).any()
    assert [read.decode(row).removeprefix(" ") for row in tokens.tolist()] == texts


def test_a_number_is_spelled_digit_by_digit(tokenizer):
    read = read_tokenizer(tokenizer)
    spelled = [read.id_to_token(i) for i in encode(read, ["3.85"], 9)[0][0].tolist()]
    assert spelled[-5:] == ["3", ".", "8", "5", "</s>"]


def test_a_word_is_the_same_token_wherever_it_stands(tokenizer):
    read = read_tokenizer(tokenizer)
    first, second = (encode(read, [text], 9)[0][0].tolist() for text in ("good", "the good"))
    assert first[0] == second[-2]


def test_a_long_text_is_cut_and_still_ends(tokenizer):
    read = read_tokenizer(tokenizer)
    tokens, cut = encode(read, ["is the dog good?" * 20, "yes"], 5)
    assert tokens.shape == (2, 5)
    assert tokens[0, -1] == 1
    assert cut == 1
    exact = len(encode(read, ["is the dog good?"], 99)[0][0])
    assert [encode(read, ["is the dog good?"], n)[1] for n in (exact - 1, exact)] == [1, 0]


def test_texts_are_tokenised_alike_however_many_at_once(tokenizer, monkeypatch):
    texts = ["is the dog good?", "no", "yes", "the cat", ""]
    whole, _ = encode(read_tokenizer(tokenizer), texts, 64)
    monkeypatch.setattr("mergeloom.data.tokenizer.AT_ONCE", 2)
    assert encode(read_tokenizer(tokenizer), texts, 64)[0].equal(whole)


def test_a_special_token_that_a_text_spells_is_text(tokenizer):
    read = read_tokenizer(tokenizer)
    text = "x <pad> yes </s> <unk>"
    row = encode(read, [text], 64)[0][0].tolist()
    assert not {0, 1, 2} & {*row[:-1]}
    assert row[-1] == 1
    assert read.decode(row).strip() == text


def test_texts_that_are_cut_are_told_of_and_counted(tokenizer, tmp_path, caplog):
    out = tmp_path / "train.safetensors"
    texts = ["is the dog good?" * 20, "yes", "is the cat good?" * 20]
    tokenize_split(texts, np.array([1, 0, 1]), tokenizer, 9, out, {})
    assert "2 of 3 texts are cut to 9 tokens" in caplog.text
    assert TensorFile(out).metadata == {"cut": "2"}


@pytest.mark.parametrize("answers", [["no", "yes " * 80], "any"])
def test_an_answer_that_is_too_long_is_refused(answers, tokenizer, tmp_path):
    with pytest.raises(MergeloomError, match=r"1 of 2 answers have more than 64 tokens, .*'yes"):
        write_answers(
            {"answers": answers}, ["no", "yes " * 80], tokenizer, tmp_path / "h.safetensors", {}
        )


def test_answers_that_the_tokenizer_does_not_tell_apart_are_refused(tmp_path):
    tokenizer = words_only(tmp_path / "tokenizer.json", "yes", "no")
    answers = ["yes", "ja", "nein"]
    with pytest.raises(MergeloomError, match=r"h.safetensors: 'ja' reads as nothing"):
        write_answers({"answers": answers}, answers, tokenizer, tmp_path / "h.safetensors", {})
    answers = ["yes", "yes ja"]
    with pytest.raises(MergeloomError, match=r"'yes ja' reads the same as 'yes'"):
        write_answers({"answers": answers}, answers, tokenizer, tmp_path / "h.safetensors", {})


def words_only(path, *words):
    """A tokenizer to which all but these words are unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.add_special_tokens(["<pad>", "</s>", "<unk>"])
    path.write_text(found.to_str())
    return path


@pytest.mark.parametrize(
    ("text", "word", "number"),
    [
        (" yes.", "yes", "yes"),
        ("(-1.0)", "1.0", "-1.0"),
        ("+2 ", "2", "+2"),
        ("'.5'.", "5", ".5"),
        ("-.5", "5", "-.5"),
        ("~3.8%", "3.8", "3.8"),
        ("-", "", ""),
        ("-no", "no", "no"),
    ],
)
def test_numbers_keep_their_sign_where_words_lose_all_around_them(text, word, number):
    assert bare(text) == word
    assert bare(text, number=True) == number


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["A", "A+"], r"'A\+' reads the same as 'A'"),
        (["-1.0", "1.0"], r"'1.0' reads the same as '-1.0'"),
        (["yes", "?"], r"'\?' reads as nothing"),
    ],
)
def test_answers_that_read_the_same_are_refused(answers, message):
    with pytest.raises(MergeloomError, match=message):
        answer_texts(answers)


def test_a_tokenizer_has_the_same_bytes_in_any_order_of_texts_and_process(tmp_path):
    program = (
        "import sys; from pathlib import Path;"
        "from mergeloom.data.rendered_text.registry import render_texts;"
        "from mergeloom.data.tokenizer_training import train_tokenizer;"
        "texts = render_texts('primer', {'train': 600}, 0)['train']['text'];"
        "train_tokenizer(texts[::int(sys.argv[2])], 700, Path(sys.argv[1]), 'mine')"
    )
    contents = set()
    for step in ("1", "-1", "1"):
        path = tmp_path / "tokenizer.json"
        library = str(CONFIG.parent / "workflow_scripts")
        subprocess.run(
            [sys.executable, "-c", program, path, step], env={"PYTHONPATH": library}, check=True
        )
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path):
    with pytest.raises(MergeloomError, match=r"mine: a vocabulary of 200 tokens has no room"):
        train_tokenizer(["a"], 200, tmp_path / "tokenizer.json", "mine")


def test_a_file_that_is_no_tokenizer_of_a_t5_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    path = tmp_path / "tokenizer.json"
    with pytest.raises(MergeloomError, match="no such file"):
        read_tokenizer(path)
    path.write_text("{}")
    with pytest.raises(MergeloomError, match="is no tokenizer of the `tokenizers` library"):
        read_tokenizer(path)
    path.write_text(Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, "<s>")).to_str())
    with pytest.raises(MergeloomError, match="token 0 is '<s>', but that of a T5 is '<pad>'"):
        read_tokenizer(path)


def test_a_tokenised_split_and_the_answers_are_what_a_model_reads(tokenizer, tmp_path):
    labels = np.array([1, 0, 1])
    texts = ["is the dog good?", "is the cat good?", "yes"]
    tokenize_split(texts, labels, tokenizer, 64, tmp_path / "train.safetensors", {"a": "b"})
    split = TensorFile(tmp_path / "train.safetensors")
    read = read_tokenizer(tokenizer)
    assert [read.decode(row).strip() for row in split["tokens"].tolist()] == texts
    assert split["labels"].tolist() == [1, 0, 1]
    assert split.metadata == {"a": "b", "cut": "0"}

    task = {"answers": SCORES, "metric": "spearman"}
    write_answers(task, answer_texts(SCORES), tokenizer, tmp_path / "head.safetensors", {})
    head = TensorFile(tmp_path / "head.safetensors")
    said = [read.decode(row).strip() for row in head["answers"].tolist()]
    assert [float(text) for text in said] == head["values"].tolist()
    assert head["tokenizer"].numpy().tobytes() == tokenizer.read_bytes()
    assert head.metadata == {"metric": "spearman"}
