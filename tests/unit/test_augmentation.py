"""Random resized crops: open_clip's training transform, for a whole batch at once."""

import numpy as np
import pytest
import torch
from PIL import Image

from mergeloom.training.augmentation import crop_boxes, random_resized_crop, resized_crop


def images(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


def draws(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 40, generator=generator, dtype=torch.double)


def test_a_crop_of_the_whole_image_is_the_identity():
    for size in (32, 224):
        shown = images(4, size)
        whole = torch.tensor([[0, 0, size, size]] * 4)
        assert torch.equal(resized_crop(shown, whole), shown)
    # A share of 1 leaves the square itself, or boxes that do not fit.
    assert torch.equal(random_resized_crop(shown, draws(4), crop_scale=(1.0, 1.0)), shown)


def test_a_crop_is_that_of_pillow_up_to_a_rare_rounding():
    shown = images(6, 64)
    boxes = torch.tensor(
        [
            [0, 0, 60, 64],
            [4, 0, 60, 64],
            [3, 5, 61, 58],
            [0, 2, 64, 62],
            [1, 1, 50, 63],
            [7, 9, 9, 20],
        ]
    )
    ours = resized_crop(shown, boxes).numpy().astype(int)
    for image, (top, left, height, width), crop in zip(shown, boxes.tolist(), ours, strict=True):
        box = (left, top, left + width, top + height)
        picture = Image.fromarray(image.numpy()).crop(box)
        expected = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
        difference = np.abs(crop - expected)
        # Pillow's weights are whole multiples of 2⁻²², so halves are rounded another way at times.
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_boxes_are_distributed_as_torchvisions():
    from mergeloom.models.torchvision_cure import cure_torchvision

    cure_torchvision()
    from torchvision.transforms import RandomResizedCrop

    size, count = 224, 4000
    ours = crop_boxes(draws(count), size, (0.9, 1.0)).double()
    torch.manual_seed(0)
    image = torch.zeros(3, size, size)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    ).double()
    # A mean of 4000 draws is off by 1/63 of their deviation; four of that on either side.
    for statistic in (
        lambda b: b,
        lambda b: b[:, 2:3] * b[:, 3:4],
        lambda b: b[:, 2:3] / b[:, 3:4],
    ):
        one, other = statistic(ours), statistic(theirs)
        bound = 4 * other.std(dim=0) * (2 / count) ** 0.5
        assert ((one.mean(dim=0) - other.mean(dim=0)).abs() <= bound).all()
        assert (one.std(dim=0) / other.std(dim=0) - 1).abs().max() < 0.1


def test_boxes_lie_in_the_image_and_have_the_share_that_is_asked_for():
    boxes = crop_boxes(draws(2000), 32, (0.5, 0.7))
    top, left, height, width = boxes.unbind(dim=1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    share = height * width / 32**2
    whole = share == 1
    assert whole.float().mean() < 0.01
    assert share[~whole].min() > 0.5 - 2 / 32
    assert share[~whole].max() < 0.7 + 2 / 32


@pytest.mark.parametrize("part", [slice(0, None, 2), slice(1, None, 2), slice(2, 5)])
def test_what_is_done_to_an_image_does_not_depend_on_the_others(part):
    shown, numbers = images(8, 32), draws(8)
    whole = random_resized_crop(shown, numbers)
    assert torch.equal(random_resized_crop(shown[part], numbers[part]), whole[part])
    assert not torch.equal(whole, shown)
