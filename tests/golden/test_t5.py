"""What the family t5 computes, against transformers' own forward passes on small random T5s, and
the scores of text against scipy's and scikit-learn's."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef

from mergeloom.evaluation.evaluators.text import matthews, spearman
from mergeloom.models.answers import Answers
from mergeloom.models.family import get_family

SIZES = {"vocab_size": 83, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
# Of one, two and three tokens; one is how another begins; and a number of answers that fork.
ANSWERS = torch.tensor([[5, 1, 0, 0], [5, 6, 1, 0], [7, 8, 9, 1], [7, 8, 1, 0], [9, 8, 7, 1]])


@pytest.fixture(
    scope="module",
    params=[("relu", True), ("gated-gelu", False), ("gated-gelu", True)],
    ids=["tied", "flan", "gated"],
)
def tower(request):
    """A T5 in float64, large enough in its weights to prefer some tokens."""
    projection, tied = request.param
    family = get_family("t5")
    torch.manual_seed(0)
    architecture = {**SIZES, "feed_forward_proj": projection, "tie_word_embeddings": tied}
    model = family.build(architecture)
    weights = {
        key: torch.randn(value.shape, dtype=torch.double) * (2 * value.detach().std() + 0.1)
        for key, value in family.tower_weights(model).items()
    }
    built = family.build_tower(architecture, weights).eval().requires_grad_(False)
    built.architecture = architecture
    return built


@pytest.fixture(scope="module")
def inputs():
    """Four texts of several lengths, padded."""
    tokens = torch.randint(2, 83, (4, 11), generator=torch.Generator().manual_seed(1))
    tokens[0, 6:], tokens[2, 1:] = 0, 0
    return tokens


def real(row):
    return row[row != 0][None]


def test_log_likelihoods_are_those_of_each_text_and_answer_alone(tower, inputs):
    expected = torch.zeros(len(inputs), len(ANSWERS), dtype=torch.double)
    for i, text in enumerate(inputs):
        for c, answer in enumerate(ANSWERS):
            log_p = tower(input_ids=real(text), labels=real(answer)).logits[0].log_softmax(-1)
            expected[i, c] = log_p.gather(-1, real(answer).T).sum()
    found = get_family("t5").logits(tower, Answers(ANSWERS), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_log_likelihoods_do_not_depend_on_how_many_logits_are_held_at_once(
    tower, inputs, monkeypatch
):
    whole = get_family("t5").logits(tower, Answers(ANSWERS), inputs)
    monkeypatch.setattr("mergeloom.models.t5.AT_ONCE", 1)
    torch.testing.assert_close(get_family("t5").logits(tower, Answers(ANSWERS), inputs), whole)


def test_attention_is_asked_for_states_that_its_norm_has_seen_and_nothing_else(tower, inputs):
    seen = []
    hook = (
        tower.decoder.block[0]
        .layer[0]
        .SelfAttention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    )
    norm = tower.decoder.block[0].layer[0].layer_norm
    made = []
    other = norm.register_forward_hook(lambda _, arguments, outputs: made.append(outputs))
    get_family("t5").logits(tower, Answers(ANSWERS), inputs)
    hook.remove()
    other.remove()
    assert len(seen) == len(made) == 1
    assert seen[0] is made[0]


def test_logits_over_the_vocabulary_are_float32_under_bfloat16(tower, inputs):
    family, head = get_family("t5"), Answers(ANSWERS)
    weights = {key: value.float() for key, value in family.tower_weights(tower).items()}
    single = family.build_tower(tower.architecture, weights).eval()
    made = []
    hook = single.lm_head.register_forward_hook(lambda _, a, outputs: made.append(outputs.dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        likely, _ = family.answer(single, head, inputs)
        family.entropy_logits(single, head, inputs)
    hook.remove()
    assert {*made} == {torch.float32}
    assert likely.dtype == torch.float32


def test_the_loss_is_the_mean_of_transformers_loss_of_each_example(tower, inputs):
    labels = torch.tensor([1, 4, 0, 2])
    expected = [
        tower(input_ids=real(text), labels=real(ANSWERS[label])).loss
        for text, label in zip(inputs, labels, strict=True)
    ]
    loss, _ = get_family("t5").loss(tower, Answers(ANSWERS), inputs, labels)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_what_is_generated_is_what_transformers_generates(tower, inputs):
    family, head = get_family("t5"), Answers(ANSWERS)
    found = family.generate(tower, head, family.encode(tower, inputs), inputs)
    for row, text in zip(found, inputs, strict=True):
        expected = tower.generate(
            real(text), attention_mask=real(text) != 0, do_sample=False, num_beams=1,
            max_new_tokens=found.shape[1],
        )[0, 1:]  # fmt: skip
        assert row[: len(expected)].tolist() == expected.tolist()
        assert not row[len(expected) :].any()


def test_examples_are_right_if_their_answers_are_what_is_generated(tower, inputs):
    family, labels = get_family("t5"), torch.arange(len(inputs))
    found = family.generate(tower, Answers(ANSWERS), family.encode(tower, inputs), inputs)
    assert int(family.loss(tower, Answers(found), inputs, labels)[1]) == len(inputs)
    found[:2, 0] = (found[:2, 0] + 1) % 83
    assert int(family.loss(tower, Answers(found), inputs, labels)[1]) == len(inputs) - 2


def test_entropy_is_of_the_first_decoder_position(tower, inputs):
    start = torch.zeros(1, 1, dtype=torch.int64)
    expected = [tower(input_ids=real(t), decoder_input_ids=start).logits[0, 0] for t in inputs]
    found = get_family("t5").entropy_logits(tower, Answers(ANSWERS), inputs)
    torch.testing.assert_close(found, torch.stack(expected))


def test_features_are_the_mean_encoder_state_of_real_tokens(tower, inputs):
    expected = [tower.encoder(real(t)).last_hidden_state[0].mean(dim=0) for t in inputs]
    found = get_family("t5").features(tower, inputs)
    torch.testing.assert_close(found, torch.stack(expected))


def test_padding_changes_nothing(tower, inputs):
    family, head = get_family("t5"), Answers(ANSWERS)
    padded = torch.nn.functional.pad(inputs, (0, 5))
    torch.testing.assert_close(
        family.logits(tower, head, padded), family.logits(tower, head, inputs)
    )


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_ties(seed):
    draws = np.random.default_rng(seed)
    one, other = draws.integers(0, 4, 30).astype(float), draws.integers(0, 6, 30) / 2
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_zero():
    assert spearman(np.zeros(5), np.arange(5.0)) == 0.0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_matthews_correlation_is_scikit_learns(classes):
    draws = np.random.default_rng(classes)
    labels = draws.integers(0, classes, 50)
    predicted = np.where(draws.random(50) < 0.5, labels, draws.integers(0, classes + 1, 50))
    expected = matthews_corrcoef(labels, predicted)
    assert matthews(predicted, labels) == pytest.approx(expected, abs=1e-12)


def test_matthews_correlation_of_the_majority_is_zero():
    assert matthews(np.ones(9, int), np.array([0, 1, 1] * 3)) == 0.0
