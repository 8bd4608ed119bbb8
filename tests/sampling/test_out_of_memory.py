"""Going on with smaller tiles where memory runs out."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from diffusers_sr.image.tiling import tile_windows
from diffusers_sr.sampling.autoencoder import decode_latents, encode_image
from diffusers_sr.sampling.denoiser import Denoiser
from diffusers_sr.sampling.finite import Stage
from diffusers_sr.sampling.guidance import Guidance
from diffusers_sr.sampling.out_of_memory import Smaller, halved, is_out_of_memory, sizes_used, with_less_memory
from diffusers_sr.sampling.prediction import GuidedPrediction
from tests.components import tiny_image, tiny_vae
from tests.pipeline.tiny import build, run


def take_all_memory(*_: object) -> None:
    """Ask the CPU's allocator for more than there is anywhere."""
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("Expected all tensors to be on the same memory format"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_cpus_allocator_says_that_memory_ran_out():
    with pytest.raises(RuntimeError) as raised:
        take_all_memory()
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(("side", "unit", "half"), [(768, 8, 384), (96, 8, 48), (100, 8, 48), (20, 8, 8), (8, 8, 8)])
def test_half_of_a_tile(side, unit, half):
    assert halved(side, unit) == half


def test_less_is_asked_for_until_it_fits(caplog):
    kept: list[weakref.ref[torch.Tensor]] = []
    size = 8

    def compute() -> int:
        assert all(reference() is None for reference in kept)  # what failed holds no memory any more
        tensor = torch.ones(size)
        kept.append(weakref.ref(tensor))
        if size > 2:
            take_all_memory()
        return size

    def shrink() -> list[Smaller]:
        nonlocal size
        size //= 2
        return [Smaller("tile_size", 2 * size, size)]

    with sizes_used() as used:
        assert with_less_memory("denoising", compute, shrink) == 2
    assert used == {"tile_size": 2}
    assert [record.getMessage() for record in caplog.records] == [
        "There was not enough memory for denoising: it is repeated with tile_size=4 instead of 8.",
        "There was not enough memory for denoising: it is repeated with tile_size=2 instead of 4.",
    ]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("something else")])
def test_an_error_stays_where_nothing_can_be_made_smaller(error):
    def compute() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        with_less_memory("denoising", compute, list)
    assert raised.value is error


def test_memory_that_runs_out_in_float32_is_no_failure_of_float32():
    layer = nn.Linear(1, 1).half()
    calls: list[None] = []

    def compute() -> torch.Tensor:
        calls.append(None)
        if len(calls) == 2:
            take_all_memory()
        return torch.tensor(float("nan"))

    with pytest.raises(RuntimeError) as raised:
        Stage("a stage", layer).run(compute)
    assert is_out_of_memory(raised.value)


class Doubling(Denoiser):
    """Predicts twice the latents, if there are at most so many of them in all tiles together."""

    def __init__(self, most: int) -> None:
        super().__init__(nn.Linear(1, 1))
        self.most = most
        self.sizes: list[tuple[int, ...]] = []

    def control_tiles(self, control, num_results, groups, unit):
        return [list(group) for group in groups]

    def predict(self, latents, timestep, texts, control):
        assert len(control) * 2 == len(latents)
        self.sizes.append(tuple(latents.shape))
        if latents[:, 0].numel() > self.most:
            take_all_memory()
        return [2 * latents]


def test_a_prediction_goes_on_with_single_tiles_and_then_with_smaller_ones():
    denoiser = Doubling(2 * 16 * 16)
    latents = torch.rand(2, 4, 40, 64)
    text = Guidance(torch.zeros(2, 1, 1), None, 1.0)
    prediction = GuidedPrediction(denoiser, text, tile_windows(40, 64, 32, 8), 2, unit=8, overlap=8)
    with sizes_used() as used:
        prediction.show(None, 2)
        result = prediction(latents, torch.tensor(1))
        assert torch.allclose(result, 2 * latents)
    assert used == {"tile_batch_size": 1, "tile_size": 128, "tile_overlap": 32}
    assert denoiser.sizes[:3] == [(4, 4, 32, 32), (2, 4, 32, 32), (2, 4, 16, 16)]
    assert len(denoiser.sizes) == 2 + 3 * 5  # starts 0, 12, 24 and 0, 12, 24, 36, 48
    del denoiser.sizes[:]
    prediction(latents, torch.tensor(0))
    assert set(denoiser.sizes) == {(2, 4, 16, 16)}


def test_a_prediction_ends_where_tiles_cannot_be_smaller():
    prediction = GuidedPrediction(
        Doubling(0), Guidance(torch.zeros(2, 1, 1), None, 1.0), tile_windows(20, 20, 96, 32), 1, unit=8, overlap=32
    )
    prediction.show(None, 2)
    with sizes_used() as used, pytest.raises(RuntimeError, match="can't allocate memory"):
        prediction(torch.rand(2, 4, 20, 20), torch.tensor(1))
    assert used == {"tile_size": 64, "tile_overlap": 32}


def test_an_autoencoder_goes_on_in_bands(caplog):
    vae = tiny_vae().eval()
    image = torch.rand(1, 3, 96, 128)

    def limited(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0][0, 0].numel() > 64 * 128:
            take_all_memory()

    with torch.no_grad():
        moments = encode_image(vae, image, 768, 8)
        decoded = decode_latents(vae, moments[:, :4], 768, 8)
        vae.encoder.conv_in.register_forward_pre_hook(limited)
        vae.decoder.conv_out.register_forward_pre_hook(limited)
        with sizes_used() as used:
            assert torch.allclose(encode_image(vae, image, 768, 8), moments, atol=1e-3)
            assert used == {"vae_tile_size": 48}
            assert torch.allclose(decode_latents(vae, moments[:, :4], 768, 8), decoded, atol=1e-3)
    assert caplog.text.count("for decoding: it is repeated with vae_tile_size=48 instead of 768") == 1


def test_a_call_goes_on_as_if_it_had_been_asked_for_smaller_tiles():
    pipeline = build("coser")
    arguments = {"image": tiny_image(32, 32), "num_inference_steps": 1, "num_references": 1, "tile_overlap": 0}
    expected = run(pipeline, "coser", tile_size=64, **arguments)

    def limited(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipeline.unet.register_forward_pre_hook(limited)
    with sizes_used() as used:
        result = run(pipeline, "coser", tile_size=128, **arguments)
    assert used == {"tile_size": 64}
    assert torch.equal(result, expected)
