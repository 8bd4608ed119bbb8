"""Settings of the degradation: their defaults and their limits."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict
from typing import Any

import pytest

from diffusers_sr.data.degradation_mixture import DEGRADATIONS, EVERYDAY, at_low_resolution
from diffusers_sr.data.degradation_settings import (
    COSER,
    OSEDIFF,
    PISA,
    REAL_ESRGAN,
    DegradationConfig,
    DegradationOrder,
    ShuffledDegradation,
)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kernel_sizes": (7, 8)}, r"kernel_sizes=\(7, 8\)"),
        ({"kernel_sizes": ()}, r"kernel_sizes=\(\)"),
        ({"kernel_probabilities": (0.5, 0.5)}, "6 probabilities that sum to 1"),
        ({"resize_probabilities": (0.5, 0.5, 0.5)}, r"resize_probabilities=\(0.5, 0.5, 0.5\).*up, down, keep"),
        ({"kernel_sizes": (1,)}, r"kernel_sizes=\(1,\)"),
        ({"kernel_probabilities": (0.5, 0.7, -0.2, 0, 0, 0)}, "6 probabilities that sum to 1"),
        ({"resize_probabilities": (0.3, 0.3, 0.3)}, "3 probabilities that sum to 1"),
        ({"sigma": (0.2, 1.0, 3.0)}, r"sigma=\(0.2, 1.0, 3.0\)"),
        ({"sigma": (0.009, 3.0)}, r"sigma=\(0.009, 3.0\).*between 0.01 and inf \(pixels\)"),
        ({"generalised_shape": (0.009, 3.0)}, "generalised_shape.*between 0.01 and inf"),
        ({"plateau_shape": (0.009, 3.0)}, "plateau_shape.*between 0.01 and inf"),
        ({"resize_factor": (0.009, 3.0)}, "resize_factor.*between 0.01 and inf"),
        ({"poisson_noise_scale": (-0.1, 3.0)}, "poisson_noise_scale.*between 0 and inf"),
        ({"gaussian_noise_sigma": (0, 256)}, "gaussian_noise_sigma.*between 0 and 255"),
        ({"jpeg_quality": (0.5, 95)}, "jpeg_quality.*between 1 and 100"),
        ({"jpeg_quality": (30, 100.5)}, "jpeg_quality.*between 1 and 100"),
        ({"resize_factor": (1.1, 1.5)}, "has to include 1"),
        ({"gray_noise_probability": -0.1}, "gray_noise_probability=-0.1"),
        ({"sigma": (3.0, 0.2)}, r"sigma=\(3.0, 0.2\)"),
        ({"sigma": 2.0}, r"sigma=2\.0: it has to be \(lowest, highest\)"),
        ({"sigma": (0.0, 0.2)}, r"sigma=\(0.0, 0.2\)"),
        ({"sinc_probability": 1.5}, "sinc_probability=1.5"),
        ({"jpeg_quality": (0, 95)}, r"jpeg_quality=\(0, 95\)"),
        ({"resize_factor": (0.2, 0.9)}, "has to include 1"),
        ({"gaussian_noise_sigma": (-1, 2)}, r"gaussian_noise_sigma=\(-1, 2\)"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DegradationOrder(**change)


def test_impossible_final_settings_are_named() -> None:
    with pytest.raises(ValueError, match="final_sinc_probability=-1"):
        DegradationConfig(final_sinc_probability=-1)
    with pytest.raises(ValueError, match="final_kernel_sizes"):
        DegradationConfig(final_kernel_sizes=(4,))


@pytest.mark.parametrize(
    "limits",
    [
        {"kernel_sizes": (3,), "sigma": (0.01, 0.01), "jpeg_quality": (1, 100)},
        {"resize_factor": (1, 1), "gaussian_noise_sigma": (0, 255), "poisson_noise_scale": (0, 0)},
        {"resize_factor": (0.01, 1), "generalised_shape": (0.01, 9), "plateau_shape": (0.01, 9)},
        {"blur_probability": 0, "sinc_probability": 1, "resize_probabilities": (0, 0, 1)},
        {"kernel_probabilities": (0.1,) * 5 + (0.5,)},
    ],
)
def test_limits_are_possible_settings(limits: dict[str, Any]) -> None:
    order = DegradationOrder(**limits)
    assert {name: getattr(order, name) for name in limits} == limits


@pytest.mark.parametrize("settings", [DegradationConfig(), DegradationOrder()])
def test_settings_do_not_change_once_they_are_checked(settings: DegradationConfig | DegradationOrder) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(settings, next(iter(asdict(settings))), 2)


def test_the_settings_of_seesr() -> None:
    """They are those of its script."""
    sizes = (7, 9, 11, 13, 15, 17, 19, 21)
    both = {
        "sinc_probability": 0.1,
        "kernel_probabilities": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        "generalised_shape": (0.5, 4.0),
        "plateau_shape": (1.0, 2.0),
        "gaussian_noise_probability": 0.5,
        "gray_noise_probability": 0.4,
        "jpeg_quality": (30.0, 95.0),
    }
    assert asdict(DegradationConfig()) == {
        "first": {
            **both,
            "blur_probability": 1.0,
            "kernel_sizes": sizes,
            "sigma": (0.2, 3.0),
            "resize_probabilities": (0.2, 0.7, 0.1),
            "resize_factor": (0.15, 1.5),
            "gaussian_noise_sigma": (1.0, 30.0),
            "poisson_noise_scale": (0.05, 3.0),
        },
        "second": {
            **both,
            "blur_probability": 0.8,
            "kernel_sizes": sizes[:3],
            "sigma": (0.2, 1.5),
            "resize_probabilities": (0.3, 0.4, 0.3),
            "resize_factor": (0.3, 1.2),
            "gaussian_noise_sigma": (1.0, 25.0),
            "poisson_noise_scale": (0.05, 2.5),
        },
        "final_sinc_probability": 0.8,
        "final_kernel_sizes": sizes,
        "enlarges": False,
    }


def differences(settings: DegradationConfig) -> dict[str, Any]:
    """The settings that are not SeeSR's."""
    found, seesr = ({**asdict(each)} for each in (settings, DegradationConfig()))
    for name in ("first", "second"):
        found[name] = {key: value for key, value in found[name].items() if value != seesr[name][key]}
    return {name: value for name, value in found.items() if value != seesr[name] and value != {}}


def test_the_settings_of_the_one_step_models() -> None:
    """Those of `params_realesrgan.yml` of OSEDiff's code and of `params.yml` of PiSA-SR's."""
    sizes = (7, 9, 11, 13, 15, 17, 19, 21)
    assert DEGRADATIONS.keys() == {"seesr", "real_esrgan", "osediff", "pisa", "bsrgan", "coser", "everyday"}
    assert DEGRADATIONS["everyday"] is EVERYDAY
    assert DEGRADATIONS["seesr"] == DegradationConfig()
    assert DEGRADATIONS["osediff"] is OSEDIFF and DEGRADATIONS["pisa"] is PISA
    assert differences(OSEDIFF) == {"second": {"kernel_sizes": sizes}, "enlarges": True}
    assert differences(PISA) == {
        "first": {
            "resize_factor": (0.3, 1.5),
            "gaussian_noise_sigma": (1.0, 15.0),
            "poisson_noise_scale": (0.05, 2.0),
            "jpeg_quality": (60.0, 95.0),
        },
        "second": {
            "blur_probability": 0.5,
            "kernel_sizes": sizes,
            "resize_factor": (0.6, 1.2),
            "gaussian_noise_sigma": (1.0, 12.0),
            "poisson_noise_scale": (0.05, 1.0),
            "jpeg_quality": (60.0, 100.0),
        },
        "enlarges": True,
    }


def test_the_settings_of_real_esrgan() -> None:
    """Those of `train_realesrnet_x4plus.yml`, whose second kernels are as large as the first."""
    assert DEGRADATIONS["real_esrgan"] is REAL_ESRGAN
    assert differences(REAL_ESRGAN) == {"second": {"kernel_sizes": (7, 9, 11, 13, 15, 17, 19, 21)}}


def test_the_settings_of_coser() -> None:
    """Those of the reproduction's `aia_512_imagenet_all_caption_clip_atten_ref.yaml`."""
    assert DEGRADATIONS["coser"] is COSER
    shapes = {"generalised_shape": (0.5, 2.0), "plateau_shape": (1.0, 1.5)}
    assert differences(COSER) == {
        "first": {
            **shapes,
            "sigma": (0.2, 1.5),
            "resize_factor": (0.3, 1.5),
            "gaussian_noise_sigma": (1.0, 15.0),
            "poisson_noise_scale": (0.05, 2.0),
            "jpeg_quality": (60.0, 95.0),
        },
        "second": {
            **shapes,
            "blur_probability": 0.5,
            "kernel_sizes": (7, 9, 11, 13, 15, 17, 19, 21),
            "sigma": (0.2, 1.0),
            "resize_factor": (0.6, 1.2),
            "gaussian_noise_sigma": (1.0, 12.0),
            "poisson_noise_scale": (0.05, 1.0),
            "jpeg_quality": (60.0, 100.0),
        },
    }


def test_the_settings_of_bsrgan() -> None:
    """Those of its `utils_blindsr.py`."""
    assert DEGRADATIONS["bsrgan"] == ShuffledDegradation()
    assert asdict(ShuffledDegradation()) == {
        "halving_probability": 0.25,
        "kernel_sizes": (7, 9, 11, 13, 15, 17, 19, 21, 23, 25),
        "anisotropic_probability": 0.5,
        "random_reduction_probability": 0.75,
        "noise_probabilities": (0.4, 0.4, 0.2),
        "noise_level": (2, 25),
        "jpeg_probability": 0.9,
        "jpeg_quality": (30, 95),
    }
    with pytest.raises(ValueError, match=r"noise_probabilities.*3 probabilities that sum to 1, for color, gray, corr"):
        ShuffledDegradation(noise_probabilities=(0.5, 0.4, 0.2))


def test_results_at_low_resolution() -> None:
    assert [name for name, each in DEGRADATIONS.items() if at_low_resolution(each) != each] == ["osediff", "pisa"]
    assert at_low_resolution(OSEDIFF) == REAL_ESRGAN
