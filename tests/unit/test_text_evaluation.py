"""Scores of what a model answers in words."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from text_study import ARCHITECTURE, ENCODER, random_weights, tokenizer, write_head, write_split

from mergeloom.data.tokenizer import encode
from mergeloom.errors import MergeloomError
from mergeloom.evaluation import results
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.benchmark import Benchmark, evaluate_finetuned
from mergeloom.evaluation.evaluators.text import number
from mergeloom.evaluation.examples import open_examples
from mergeloom.io.tensors import TensorFile, write_tensors
from mergeloom.models.answers import Answers
from mergeloom.models.family import get_family


class Said:
    """A family whose tower says what it is given to say, example by example."""

    modality = "text"

    def __init__(self, texts, likeliest):
        self._tokens = encode(tokenizer(), texts, 8)[0].long()
        self._likeliest = torch.tensor(likeliest)

    def answer(self, tower, head, inputs):
        rows = inputs[:, 0] - 3  # the first word of a text is its place
        logits = torch.nn.functional.one_hot(self._likeliest[rows], len(head)).float()
        return logits.log_softmax(dim=1), self._tokens[rows]


def scores_of(tmp_path, said, labels, answers, likeliest=None, **head):
    """Scores of a model that says `said` of texts with these labels."""
    words = tokenizer()
    texts = [words.id_to_token(3 + i) for i in range(len(labels))]
    split = write_split(tmp_path / "split.safetensors", texts, labels)
    path = write_head(tmp_path / "head.safetensors", answers, **head)
    with TensorFile(path) as file:
        opened = get_family("t5").read_head(file, "cpu")
    return evaluate(
        Said(said, likeliest or labels), None, opened, open_examples(split, ENCODER, "cpu"),
        device="cpu", batch_size=2,
    )  # fmt: skip


def test_a_text_is_right_but_for_punctuation_and_space_around_it(tmp_path):
    said = ["yes .", ", yes", "yes yes", "no", "nothing"]
    scores = scores_of(tmp_path, said, [1, 1, 1, 0, 0], ["no", "yes"])
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["valid_rate"] == pytest.approx(3 / 5)
    assert scores["n"] == 5
    assert "mcc" not in scores


def test_label_accuracy_and_loss_are_of_the_answers_beside_each_other(tmp_path):
    scores = scores_of(tmp_path, ["nothing"] * 4, [0, 1, 1, 0], ["no", "yes"], [0, 1, 0, 0])
    assert scores["accuracy"] == 0
    assert scores["label_accuracy"] == 0.75
    right = np.log(np.e / (np.e + 1))
    assert scores["loss"] == pytest.approx(-(3 * right + np.log(1 / (np.e + 1))) / 4)


def test_numbers_are_scored_by_their_ranks_and_what_is_none_counts_as_zero(tmp_path):
    answers, values = ["0.0", "1.0", "2.0"], [0.0, 1.0, 2.0]
    scores = scores_of(
        tmp_path, ["nothing", "1.0", "2.5", "0.0"], [0, 1, 2, 0], answers,
        values=values, metric="spearman",
    )  # fmt: skip
    assert scores["accuracy"] == pytest.approx(1.0)
    assert scores["valid_rate"] == 0.5  # 2.5 is a number, but no answer
    scores = scores_of(
        tmp_path, ["2.0", "1.0", "nothing"], [0, 1, 2], answers, values=values, metric="spearman"
    )
    assert scores["accuracy"] == pytest.approx(-1.0)


def test_a_sign_counts_in_numbers(tmp_path):
    answers, values = ["-1.0", "0.0", "1.0"], [-1.0, 0.0, 1.0]
    scores = scores_of(
        tmp_path, ["-1.0", "1.0", ", 1.0 .", "0.0"], [0, 2, 2, 1], answers,
        values=values, metric="spearman",
    )  # fmt: skip
    assert scores["accuracy"] == pytest.approx(1.0)
    assert scores["valid_rate"] == 1.0


def test_a_head_whose_answers_read_the_same_is_refused(tmp_path):
    with pytest.raises(MergeloomError, match=r"the head: 'yes \.' reads the same as 'yes'"):
        scores_of(tmp_path, ["yes"], [0], ["yes", "yes ."])


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "", "three"])
def test_what_is_no_finite_number_is_zero(text):
    assert number(text) == 0.0


def test_whatever_is_no_answer_is_a_class_of_its_own_to_mcc(tmp_path):
    said = ["yes", "no", "nothing", "no"]
    scores = scores_of(tmp_path, said, [1, 0, 1, 0], ["no", "yes"], metric="mcc")
    from sklearn.metrics import matthews_corrcoef

    assert scores["mcc"] == pytest.approx(matthews_corrcoef([1, 0, 1, 0], [1, 0, 2, 0]))
    assert scores["accuracy"] == 0.75


def test_a_head_without_a_tokenizer_says_what_to_do(tmp_path):
    split = write_split(tmp_path / "split.safetensors", ["good"], [0])
    with pytest.raises(MergeloomError, match=r"no tokenizer.*build the head again"):
        evaluate(
            Said(["yes"], [0]), None, Answers(torch.tensor([[18, 1]])),
            open_examples(split, ENCODER, "cpu"), device="cpu", batch_size=2,
        )  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """A word task and a number task, a base and an expert of each."""
    texts = ["good film", "bad film is bad", "the film was fine", "nothing"] * 3
    paths = {"heads": [], "val": [], "test": [], "checkpoints": []}
    for index, (task, labels, answers, head) in enumerate(
        [
            ("words", [0, 1, 0, 1] * 3, ["no", "yes"], {"metric": "mcc"}),
            ("numbers", [0, 1, 2, 0] * 3, ["0.0", "1.0", "2.0"],
             {"metric": "spearman", "values": [0.0, 1.0, 2.0]}),
        ]
    ):  # fmt: skip
        paths["heads"].append(write_head(tmp_path / f"{task}_head.safetensors", answers, **head))
        for split in ("val", "test"):
            path = tmp_path / f"{task}_{split}.safetensors"
            paths[split].append(write_split(path, texts, labels))
        path = tmp_path / f"{task}.safetensors"
        write_tensors(path, random_weights(index), {})
        paths["checkpoints"].append(path)
    return paths


def benchmark_of(study, **more):
    return Benchmark(
        encoder=ENCODER, tasks=["words", "numbers"], heads=study["heads"], val=study["val"],
        test=study["test"], device="cpu", batch_size=5, **more,
    )  # fmt: skip


def test_a_result_says_what_is_scored_by_correlation(study, monkeypatch):
    # Experts of random weights answer nothing, and nothing can be normalised by nothing.
    monkeypatch.setattr(results, "normalise_scores", lambda found, _: found)
    monkeypatch.setattr(
        "mergeloom.evaluation.benchmark.normalise_scores",
        lambda found, _: {t: {**s, "normalized_accuracy": 1.0} for t, s in found.items()},
    )
    found = evaluate_finetuned(
        benchmark_of(study), checkpoints=study["checkpoints"],
        names={"encoder": "E", "experts": "X", "benchmark": "B"}, provenance={},
    )  # fmt: skip
    assert found["scored_by"] == {"numbers": "spearman"}
    assert "mcc" in found["tasks"]["words"]
    assert "mcc" not in found["tasks"]["numbers"]
    assert "mcc" not in found["average"]  # which is over what all tasks have
    assert {"label_accuracy", "valid_rate"} < set(found["average"])


def test_scores_do_not_depend_on_the_size_of_batches(study):
    tower = get_family("t5").build_tower(ARCHITECTURE, random_weights()).eval()
    one, other = (
        benchmark_of(study).scores([(tower, ["words", "numbers"])], ["test"])["test"],
        Benchmark(
            encoder=ENCODER, tasks=["words", "numbers"], heads=study["heads"], test=study["test"],
            device="cpu", batch_size=100,
        ).scores([(tower, ["words", "numbers"])], ["test"])["test"],
    )  # fmt: skip
    for task in one:
        assert one[task] == pytest.approx(other[task], rel=1e-5)


def test_every_batch_is_evaluated_within_what_is_around_its_rows(study):
    tower, seen = get_family("t5").build_tower(ARCHITECTURE, random_weights()).eval(), []

    @contextmanager
    def around(rows):
        seen.append((rows.start, rows.stop))
        yield

    benchmark_of(study).count(tower, "test", "words", around=around)
    assert seen == [(0, 5), (5, 10), (10, 12)]


def test_weights_that_are_not_finite_are_named_as_the_cause(study):
    weights = random_weights()
    weights["encoder.final_layer_norm.weight"].fill_(float("nan"))
    tower = get_family("t5").build_tower(ARCHITECTURE, weights).eval()
    with pytest.raises(MergeloomError, match="NaN or too large"):
        benchmark_of(study).count(tower, "test", "words")
