"""The rendered text tasks: disjoint, reproducible, and what their presets and labels say."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mergeloom.data.answers import ANY, answer_texts
from mergeloom.data.prompts import fields_of
from mergeloom.data.rendered_text import grammar, primer, registry, sentiment, similarity, words
from mergeloom.data.rendered_text.registry import get_text_renderer, render_texts
from mergeloom.errors import MergeloomError

TASKS = Path(__file__).parents[2] / "config" / "tasks"
TEXT4 = ("grammar", "entailment", "sentiment", "similarity")
PRESETS = {
    name: yaml.safe_load((TASKS / f"{name}.yaml").read_text()) for name in (*TEXT4, "primer")
}
SMALL = {"train": 120, "val": 33, "test": 66}


@pytest.fixture(scope="module")
def whole():
    """Every task at the size of its preset."""
    return {
        name: render_texts(name, {s: p["source"][s] for s in SMALL}, 2)
        for name, p in PRESETS.items()
    }


def rows(name, columns):
    return list(zip(*(columns[field] for field in get_text_renderer(name).fields), strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_no_example_occurs_twice_within_or_across_splits(name, whole):
    examples = [row for columns in whole[name].values() for row in rows(name, columns)]
    assert len(set(examples)) == len(examples)
    assert len(examples) == sum(PRESETS[name]["source"][split] for split in SMALL)


@pytest.mark.parametrize("name", TEXT4)
def test_no_question_of_the_primer_is_one_of_a_task(name, whole):
    prompt = PRESETS[name]["prompt"]
    asked = {
        prompt.format(**dict(zip(get_text_renderer(name).fields, row, strict=True)))
        for columns in whole[name].values()
        for row in rows(name, columns)
    }
    learned = {text for columns in whole["primer"].values() for text in columns["text"]}
    assert not asked & learned


def test_the_primer_asks_in_the_words_of_the_tasks_presets():
    assert {name: PRESETS[name]["prompt"] for name in TEXT4} == primer.PROMPTS
    for name in TEXT4:
        assert set(primer.ANSWERS[name]) == set(get_text_renderer(name).kinds)


@pytest.mark.parametrize("name", TEXT4)
def test_answers_are_balanced_in_every_split_and_are_those_of_the_preset(name, whole):
    for columns in whole[name].values():
        counts = Counter(columns["label"])
        assert set(counts) <= set(answer_texts(PRESETS[name]["answers"]))
        assert set(counts) == set(get_text_renderer(name).kinds)
        assert len(set(counts.values())) == 1, "the counts of the presets divide evenly"


@pytest.mark.parametrize("name", PRESETS)
def test_prompts_name_fields_of_the_renderer_and_texts_are_plain(name, whole):
    renderer = get_text_renderer(name)
    assert set(fields_of(PRESETS[name]["prompt"])) == set(renderer.fields)
    for columns in whole[name].values():
        for field in renderer.fields:
            texts = columns[field]
            assert all(text == " ".join(text.split()) and text for text in texts)
            assert not any("{" in text for text in texts)


def test_the_tasks_share_few_hundred_words(whole):
    used = {
        word
        for name in TEXT4
        for columns in whole[name].values()
        for row in rows(name, columns)
        for text in row
        for word in text.split()
    }
    learned = {w for text in whole["primer"]["train"]["text"] for w in text.split()}
    assert 150 < len(used) < 400
    assert all(word.endswith("ed") for word in used - learned), "all but wrong past forms"


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_arguments_write_the_same_texts_and_another_seed_others(name):
    first, again, other = (render_texts(name, SMALL, seed) for seed in (3, 3, 4))
    assert first == again
    assert first["test"] != other["test"]


def test_another_process_writes_the_same_texts():
    program = (
        "import hashlib; from mergeloom.data.rendered_text.registry import render_texts;"
        "splits = [render_texts(n, {'test': 60}, 5) for n in ('primer', 'similarity')];"
        "print(hashlib.sha256(repr(splits).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": str(Path(registry.__file__).parents[3]), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_more_training_examples_leave_validation_and_test_as_they_were():
    few, many = (render_texts("grammar", SMALL | {"train": n}, 0) for n in (20, 400))
    for split in ("val", "test"):
        assert few[split] == many[split]


def test_a_renderer_that_repeats_itself_gives_disjoint_splits_or_says_what_it_has(monkeypatch):
    def write(kind, rng):
        return {"text": f"{kind}{rng.integers(20)}"}

    few = registry.TextRenderer("few", ("text",), ("a", "b"), write)
    monkeypatch.setitem(registry._renderers, "few", few)
    splits = render_texts("few", {"train": 20, "val": 10, "test": 10}, 0)
    texts = [text for columns in splits.values() for text in columns["text"]]
    assert sorted(texts) == sorted(f"{kind}{n}" for kind in "ab" for n in range(20))
    with pytest.raises(MergeloomError, match=r"'few' found only 10 of 11 further .* of 'a': ask"):
        render_texts("few", {"train": 22, "val": 10, "test": 10}, 0)


def test_an_unknown_renderer_lists_what_exists():
    with pytest.raises(MergeloomError, match=r"no renderer 'gramar' of texts.* grammar"):
        get_text_renderer("gramar")


def test_acceptable_sentences_agree_and_others_break_some_rule(whole):
    """The rules anew: determiner with noun, verb with subject, forms, order, and a verb at all."""
    singular, plural = {"this", "that", "every", "one"}, {"these", "those", "many", "several"}
    wrong_past = re.compile(r"\b(sleeped|runned|singed|swimmed|seed|taked|finded|holded)\b")
    verbs = {verb.split()[0] for verb in (*grammar.ALONE, *grammar.WITH_OBJECT)}
    pasts = {verb.split()[1] for verb in (*grammar.ALONE, *grammar.WITH_OBJECT)}
    nouns = {*words.TASKS.beings, *words.TASKS.things}
    moods = {*words.MOODS}
    determiners = {"the", *singular, *plural}

    def right(sentence):
        said, determiner, subject, found = sentence.split(), "", None, False
        for before, word in zip(["", *said], said, strict=False):
            stem = word.removesuffix("s")
            if word in determiners:
                if before in determiners:
                    return False
                determiner = word
            elif word in moods:
                if before not in determiners:
                    return False
            elif stem in nouns:
                if determiner in (singular if word != stem else plural):
                    return False
                subject = word != stem if subject is None else subject
            elif word in pasts or stem in verbs:
                found = True
                if word not in pasts and (word in verbs) != subject:
                    return False
        return found and not wrong_past.search(sentence)

    for columns in whole["grammar"].values():
        for sentence, label in zip(columns["sentence"], columns["label"], strict=True):
            assert right(sentence) == (label == "acceptable"), sentence


def test_facts_imply_contradict_or_say_nothing(whole):
    """Every statement as (subject, property, value, denied), judged against the premise."""
    patterns = (
        (r"the (\w+) is (not )?(\w+)", "colour"),
        (r"(\w+) is (not )?in the (\w+)", "place"),
        (r"(\w+) (?:has|does (not )have) (\w+) keys", "keys"),
    )

    def read(text):
        for pattern, what in patterns:
            if found := re.fullmatch(pattern, text):
                return (found[1], what), found[3], bool(found[2])
        return None, None, None

    for columns in whole["entailment"].values():
        for premise, hypothesis, label in zip(*columns.values(), strict=True):
            known = {}
            for fact in premise.split(" and "):
                of, value, _ = read(fact)
                known[of] = value
            assert len(known) == 2
            of, value, denied = read(hypothesis)
            judged = "neutral"
            if of in known:
                judged = "contradiction" if (known[of] == value) == denied else "entailment"
            assert judged == label, (premise, hypothesis)


def test_similarity_counts_equal_words_and_half_of_nearly_equal_ones(whole):
    near = {frozenset(pair.split()) for place in similarity.PLACES for pair in place}
    plain = {"the", "a", "in"}
    for columns in whole["similarity"].values():
        for first, second, label in zip(*columns.values(), strict=True):
            pairs = [
                pair for pair in zip(first.split(), second.split(), strict=True)
                if not plain & {*pair}
            ]  # fmt: skip
            score = sum(1 if a == b else 0.5 * ({a, b} in near) for a, b in pairs)
            assert len(pairs) == 5
            assert f"{score:.1f}" == label


def test_a_review_with_one_clause_says_what_its_words_say(whole):
    good = {*sentiment.GOOD, *sentiment.LIKED}
    for columns in whole["sentiment"].values():
        for review, label in zip(columns["review"], columns["label"], strict=True):
            decides = re.split(r" although | and ", review)[0].split(" but ")[-1].split()
            positive = bool(good & {*decides}) != ("not" in decides)
            assert positive == (label == "positive"), review


def test_the_primer_copies_fills_in_and_answers_more_often_right_than_not(whole):
    columns = whole["primer"]["train"]
    assert PRESETS["primer"]["answers"] == ANY
    forms = {n: re.sub(r"\\{\w+\\}", ".+", re.escape(p)) for n, p in primer.PROMPTS.items()}
    same = []
    for text, label in zip(columns["text"], columns["label"], strict=True):
        if text.startswith("Copy: "):
            assert text.removeprefix("Copy: ") == label
        elif text.startswith("Fill in: "):
            assert text.split().count("_") == 1
            assert len(label.split()) == 1
        else:
            (name,) = (n for n, form in forms.items() if re.fullmatch(form, text))
            assert label in primer.ANSWERS[name]
            if name == "similarity":
                first, second = text.removeprefix("How similar, from 0 to 5? ").split(" | ")
                same += [label == "5.0"] if first == second else []
    assert 0.6 < sum(same) / len(same) < 0.85
