"""T5s mixed by input, against one merged T5 for every text."""

import pytest
import torch

from mergeloom.adaptive.mixture import Mixture
from mergeloom.io.tensors import write_tensors
from mergeloom.models.answers import Answers
from mergeloom.models.family import get_family

ENCODER = {
    "family": "t5",
    "architecture": {
        "vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    },
}  # fmt: skip
ANSWERS = torch.tensor([[5, 1, 0], [7, 9, 1], [7, 1, 0]])
TASKS = 3


@pytest.fixture
def files(tmp_path):
    """A base, and task vectors that change everything in it, tables of positions, too."""
    family = get_family("t5")
    torch.manual_seed(0)
    model = family.build(ENCODER["architecture"])
    shapes = {k: v.shape for k, v in family.tower_weights(model).items()}
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", *range(TASKS))]
    for path, std in zip(paths, (0.3, *[0.1] * TASKS), strict=True):
        write_tensors(path, {k: torch.randn(*shape) * std for k, shape in shapes.items()}, {})
    return paths[0], paths[1:]


@pytest.fixture
def texts():
    tokens = torch.randint(2, 50, (4, 7), generator=torch.Generator().manual_seed(1))
    tokens[1, 5:] = 0
    return tokens


@pytest.mark.parametrize("layers", [False, True])
def test_each_text_is_answered_by_its_own_merged_model(files, texts, layers):
    family, head = get_family("t5"), Answers(ANSWERS)
    mixture = Mixture(ENCODER, *files, "cpu", centre=0.0)
    base = {key: tensor.clone() for key, tensor in mixture.base.items()}
    shape = (4, TASKS, len(mixture.keys)) if layers else (4, TASKS)
    coefficients = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), mixture.mixed(coefficients):
        found, generated = family.answer(mixture.tower, head, texts)
        entropy = family.entropy_logits(mixture.tower, head, texts)
        features = family.features(mixture.tower, texts)
    # Fewer rows at once, such as a last batch has, are answered alike.
    with torch.no_grad(), mixture.mixed(coefficients[:2]):
        torch.testing.assert_close(family.logits(mixture.tower, head, texts[:2]), found[:2])
    for row in range(4):
        merged = {}
        for place, key in enumerate(mixture.keys):
            factors = coefficients[row, :, place] if layers else coefficients[row]
            step = torch.einsum("k,k...->...", factors.double(), mixture.stacks[key].double())
            merged[key] = base[key].double() + step
        tower = family.build_tower(ENCODER["architecture"], merged).eval()
        text = texts[[row]]
        with torch.no_grad():
            expected, expected_text = family.answer(tower, head, text)
            for one, many in (
                (expected, found),
                (family.entropy_logits(tower, head, text), entropy),
                (family.features(tower, text), features),
            ):
                torch.testing.assert_close(many[[row]].double(), one, rtol=1e-4, atol=1e-4)
        length = expected_text.shape[1]
        assert torch.equal(generated[[row], :length], expected_text)
        assert not generated[row, length:].any()


def test_the_perceptrons_are_those_of_all_blocks(files):
    mixture = Mixture(ENCODER, *files, "cpu")
    found = mixture.perceptrons()
    assert [p.width for p in found] == [32] * 4
    assert sum(len(p.keys) for p in found) == sum("DenseReluDense" in key for key in mixture.keys)
