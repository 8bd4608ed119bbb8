import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusers_sr.image.color import COLOR_FIXES, adain, wavelet


def images():
    generator = torch.Generator().manual_seed(0)
    image = 0.3 + 0.3 * torch.rand((2, 3, 40, 50), generator=generator)
    reference = 0.4 + 0.2 * torch.rand((2, 3, 40, 50), generator=generator)
    return image, reference


def test_adain_gives_mean_and_deviation_of_the_reference():
    image, reference = images()
    fixed = adain(image, reference)
    assert not torch.allclose(fixed, image, atol=1e-3)
    torch.testing.assert_close(fixed.mean((2, 3)), reference.mean((2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(fixed.std((2, 3)), reference.std((2, 3)), atol=1e-4, rtol=0)


def test_adain_of_a_flat_image_is_finite():
    _, reference = images()
    assert adain(torch.full_like(reference, 0.5), reference).isfinite().all()


def test_wavelet_is_the_decomposition_of_both_put_together():
    image, reference = images()
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(3, 1, 3, 3) / 16

    def decompose(x):
        high = torch.zeros_like(x)
        for level in range(5):
            step = 2**level
            low = F.conv2d(F.pad(x, (step,) * 4, mode="replicate"), kernel, groups=3, dilation=step)
            high, x = high + x - low, low
        return high, x

    expected = decompose(image)[0] + decompose(reference)[1]
    torch.testing.assert_close(wavelet(image, reference), expected.clamp(0, 1), atol=1e-5, rtol=0)


def plane(*pixels):
    """One row of pixels, the same in all three channels."""
    return torch.tensor(pixels).expand(1, 3, 1, len(pixels))


def assert_pixels(image, *expected):
    torch.testing.assert_close(image, plane(*expected), atol=2e-6, rtol=0)
    assert ((image * 255).round().to(torch.uint8) == (plane(*expected) * 255).round().to(torch.uint8)).all()


def test_adain_of_pixels_worked_out_by_hand():
    # Means 0.75 and 0.25, both of variance (3 · 0.25² + 0.75²) / 3 = 0.25: what is left is to move by 0.5.
    dark, bright = plane(0.0, 0.0, 0.0, 1.0), plane(0.0, 1.0, 1.0, 1.0)
    assert_pixels(adain(bright, dark), 0.0, 0.5, 0.5, 0.5)  # not -0.5, which is 128 as a byte
    assert_pixels(adain(dark, bright), 0.5, 0.5, 0.5, 1.0)  # not 1.5
    # Mean 0.5015 and variance 9e-6, to which 1e-5 is added: the deviations are sqrt(0.25001) and sqrt(1.9e-5), and
    # 0.0045 · 114.7102 + 0.25 = 0.7661959, -0.0015 · 114.7102 + 0.25 = 0.0779347.
    faint = plane(0.5, 0.5, 0.5, 0.506)
    torch.testing.assert_close(adain(faint, dark), plane(*[0.0779347] * 3, 0.7661959), atol=2e-5, rtol=0)
    # With 16e-6 the deviations are sqrt(0.250016) and 0.005: 0.0045 · 100.0032 + 0.25, and -0.0015 · 100.0032 + 0.25.
    expected = plane(*[0.0999952] * 3, 0.7000144)
    torch.testing.assert_close(adain(faint, dark, epsilon=16e-6), expected, atol=2e-5, rtol=0)


def test_wavelet_of_pixels_worked_out_by_hand():
    # The difference [-1, -1, 0, 0], blurred by [1/4, 1/2, 1/4], is [-1, -3/4, -1/4, 0].
    step, dark, bright = plane(1.0, 1.0, 0.0, 0.0), plane(*[0.0] * 4), plane(*[1.0] * 4)
    assert_pixels(wavelet(step, dark, levels=1), 0.0, 0.25, 0.0, 0.0)  # not -0.25, which is 192 as a byte
    # From [0, 0, 1, 1] to [0, 1/4, 3/4, 1].
    assert_pixels(wavelet(step, bright, levels=1), 1.0, 1.0, 0.75, 1.0)  # not 1.25
    # A second level, of pixels two apart: (-1 - 2 - 1/4) / 4, (-1 - 3/2 + 0) / 4, (-1 - 1/2 + 0) / 4, (-3/4) / 4.
    assert_pixels(wavelet(step, dark, levels=2), 0.1875, 0.375, 0.0, 0.0)
    grey = plane(*[0.5] * 4)
    # From [-1/2, -1/2, 1/2, 1/2] to [-1/2, -1/4, 1/4, 1/2] and [-5/16, -1/8, 1/8, 5/16].
    assert_pixels(wavelet(step, grey, levels=2), 0.6875, 0.875, 0.125, 0.3125)


def test_color_fixes_by_name():
    assert {"adain": adain, "wavelet": wavelet} == COLOR_FIXES


def test_an_image_with_its_own_colours_stays_as_it_is():
    image, _ = images()
    for fix in (adain, wavelet):
        torch.testing.assert_close(fix(image, image), image, atol=1e-6, rtol=0)


def test_an_image_does_not_depend_on_its_batch():
    image, reference = images()
    for fix in (adain, wavelet):
        torch.testing.assert_close(fix(image, reference)[1:], fix(image[1:], reference[1:]))
        assert fix(image * 3, reference * 3).max() <= 1


class PeakMemory(TorchDispatchMode):
    """The most bytes that the tensors made in the context hold at one time."""

    peak = 0

    def __init__(self):
        super().__init__()
        self.tensors: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        output = function(*args, **kwargs or {})
        for tensor in tree_leaves(output):
            if tensor.untyped_storage().data_ptr() not in given:  # no view
                self.tensors.add(tensor)
        self.peak = max(self.peak, sum(tensor.untyped_storage().nbytes() for tensor in self.tensors))
        return output


@pytest.mark.parametrize(("fix", "copies"), [(adain, 1.1), (wavelet, 2.4)])
def test_images_fit_into_memory(fix, copies):
    """A result of 12000 × 9000 pixels is 1.3 GB; these are the times that a fix needs in addition."""
    image, reference = torch.rand(2, 1, 3, 600, 800)
    with PeakMemory() as memory:
        fix(image, reference)
    assert image.nbytes <= memory.peak <= copies * image.nbytes


@pytest.mark.parametrize("fix", [adain, wavelet])
def test_images_that_lie_in_memory_channels_last(fix):
    """As those of a VAE can, whose convolutions choose it."""
    images, references = torch.rand(2, 2, 3, 8, 12)
    result = fix(images.to(memory_format=torch.channels_last), references)
    torch.testing.assert_close(result, fix(images, references))
