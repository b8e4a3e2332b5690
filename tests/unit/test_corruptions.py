"""Corruptions do what their names say, the more the severer, and the same every time."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mergeloom.data.corruptions.registry import SEVERITIES, corrupt, corruptions
from mergeloom.errors import MergeloomError

STUDIED = {"motion_blur", "impulse_noise", "gaussian_noise", "pixelate", "spatter", "contrast",
           "jpeg_compression"}  # fmt: skip


def picture(size=96):
    """Smooth colours with edges and a little texture, in the middle of the range."""
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.random((size, size, 3)), (size / 12, size / 12, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    smooth[size // 3 : size // 2, size // 4 : -size // 4] = (0.8, 0.3, 0.2)
    texture = random.normal(0, 0.02, smooth.shape)
    return np.rint(255 * np.clip(0.2 + 0.6 * smooth + texture, 0, 1)).astype(np.uint8)


def apart(one, other):
    """Mean squared difference of two images, of values in [0, 1]."""
    return float(np.mean((one.astype(float) - other.astype(float)) ** 2)) / 255**2


def test_the_seven_of_the_adaptive_study_are_there():
    assert set(corruptions()) == STUDIED


@pytest.mark.parametrize("name", sorted(STUDIED))
@pytest.mark.parametrize("size", [32, 224])
def test_a_corruption_keeps_shape_and_type_and_changes_the_image(name, size):
    image = picture(size)
    for severity in SEVERITIES:
        corrupted = corrupt(image, name, severity, seed=0, index=0)
        assert corrupted.shape == image.shape
        assert corrupted.dtype == np.uint8
        assert not np.array_equal(corrupted, image)


@pytest.mark.parametrize("name", sorted(STUDIED - {"spatter", "pixelate"}))
def test_a_higher_severity_is_farther_from_the_image(name):
    image = picture()
    distances = [
        np.mean([apart(corrupt(image, name, s, 0, index), image) for index in range(4)])
        for s in SEVERITIES
    ]
    assert all(low < high for low, high in itertools.pairwise(distances)), distances


def test_water_and_mud_cover_more_the_higher_the_severity():
    """From 3 to 4 the liquid changes from water to mud, so within each of them."""
    image = picture(224)

    def covered(severity):
        return np.mean([
            (corrupt(image, "spatter", severity, 0, index) != image).any(axis=2).mean()
            for index in range(3)
        ])  # fmt: skip

    assert covered(1) < covered(2) < covered(3)
    assert covered(4) < covered(5)


def test_water_brightens_and_mud_darkens():
    image = picture(224)
    water, mud = (corrupt(image, "spatter", severity, 0, 0).astype(int) for severity in (3, 5))
    assert ((water - image) >= 0).all()
    assert mud.mean() < image.mean()


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_its_deviation_and_no_mean(severity, deviation):
    grey = np.full((224, 224, 3), 128, np.uint8)
    noise = (corrupt(grey, "gaussian_noise", severity, 0, 0).astype(float) - 128) / 255
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert abs(noise.mean()) < 3 * deviation / np.sqrt(noise.size)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (5, 0.27)])
def test_impulse_noise_strikes_its_share_half_black_half_white(severity, share):
    grey = np.full((224, 224, 3), 128, np.uint8)
    noisy = corrupt(grey, "impulse_noise", severity, 0, 0)
    black, white = (noisy == 0).mean(), (noisy == 255).mean()
    assert black + white == pytest.approx(share, rel=0.05)
    assert black == pytest.approx(white, rel=0.1)
    assert (noisy == 128).mean() == pytest.approx(1 - share, rel=0.05)


def test_contrast_keeps_the_mean_and_shrinks_the_deviation():
    image = picture()
    flat = corrupt(image, "contrast", 1, 0, 0)
    np.testing.assert_allclose(flat.mean((0, 1)), image.mean((0, 1)), atol=0.1)
    np.testing.assert_allclose(flat.std((0, 1)) / image.std((0, 1)), 0.4, rtol=0.02)


def test_pixelation_leaves_fewer_blocks_the_higher_the_severity():
    image = picture(100)
    blocks = []
    for severity in SEVERITIES:
        rows = corrupt(image, "pixelate", severity, 0, 0).astype(int)
        blocks.append(1 + np.count_nonzero(np.abs(np.diff(rows, axis=0)).sum((1, 2))))
    assert blocks == [60, 50, 40, 30, 25]


def test_pixelation_leaves_blocks():
    """At severity 2 half the size, so every block of four pixels has one colour: its mean."""
    image = picture(96)
    blocks = corrupt(image, "pixelate", 2, 0, 0).reshape(48, 2, 48, 2, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    expected = image.reshape(48, 2, 48, 2, 3).mean((1, 3))
    np.testing.assert_allclose(blocks[:, 0, :, 0], expected, atol=1)


def test_compression_is_that_of_pillow():
    image, buffer = picture(), io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=15)
    expected = np.asarray(Image.open(buffer))
    np.testing.assert_array_equal(corrupt(image, "jpeg_compression", 3, 0, 0), expected)


def test_motion_blur_smears_a_point_along_a_line_and_keeps_its_light():
    point = np.zeros((224, 224, 3), np.uint8)
    point[112, 112] = 255
    blurred = corrupt(point, "motion_blur", 5, seed=0, index=0)[..., 0].astype(float)
    rows, columns = np.nonzero(blurred)
    assert len(rows) > 10
    # One pixel beside another, on a line at most 45° from the horizontal.
    slope, offset = np.polyfit(columns, rows, 1)
    assert abs(slope) <= 1.01
    assert np.abs(rows - slope * columns - offset).max() < 1
    # Each of the kernel's values is rounded to 8 bits.
    assert blurred.sum() == pytest.approx(255, abs=len(rows) / 2)


def test_motion_blur_leaves_an_even_image_as_it_is():
    grey = np.full((64, 64, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(grey, "motion_blur", 4, 0, 0), grey)


def test_lengths_scale_with_the_image():
    """A point's smear is as long a part of a small image as of a large one."""
    widths = []
    for size in (224, 448):
        point = np.zeros((size, size, 3), np.uint8)
        point[size // 2, size // 2] = 255
        smear = corrupt(point, "motion_blur", 3, 0, 0)[..., 0]
        widths.append(np.ptp(np.nonzero(smear)[1]) / size)
    assert widths[0] == pytest.approx(widths[1], rel=0.2)


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "motion_blur", "spatter"])
def test_random_numbers_belong_to_seed_and_index(name):
    image = picture()
    first = corrupt(image, name, 3, seed=1, index=5)
    corrupt(image, name, 4, seed=1, index=6)
    np.testing.assert_array_equal(corrupt(image, name, 3, seed=1, index=5), first)
    assert not np.array_equal(corrupt(image, name, 3, seed=2, index=5), first)
    assert not np.array_equal(corrupt(image, name, 3, seed=1, index=6), first)


def test_the_severity_changes_how_much_and_not_which():
    image = np.full((64, 64, 3), 128, np.uint8)
    mild, strong = (corrupt(image, "impulse_noise", s, 0, 0) != 128 for s in (1, 5))
    assert (strong | ~mild).all(), "what a mild one strikes, a strong one strikes, too"


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_there_is_no_severity_but_1_to_5(severity):
    with pytest.raises(MergeloomError, match=f"contrast: severity is {severity}, expected 1 to 5"):
        corrupt(picture(32), "contrast", severity, 0, 0)


def test_an_unknown_corruption_lists_those_that_exist():
    with pytest.raises(MergeloomError, match="unknown corruption 'fog'; there is: contrast, gauss"):
        corrupt(picture(32), "fog", 1, 0, 0)
