"""SCEdit's tuners on a stock UNet: what they compute, where, and that they come off without a trace."""

from __future__ import annotations

from typing import Any

import accelerate
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from diffusers_sr.cassr.activation import SCEditAdapter
from diffusers_sr.image.tiling import crop_tiles, tile_windows
from tests.components import TEXT_DIM, randomise, tiny_controlnet, tiny_unet

HINTS = {"hint_channels": (4, 6, 8, 8)}  # three strides: eight pixels to a latent


class Models:
    """A UNet and a random adapter that is attached to it, with the inputs of a call."""

    def __init__(self, batch: int = 1, size: tuple[int, int] = (8, 8), attach: bool = True, **options: Any) -> None:
        torch.manual_seed(0)
        self.unet = tiny_unet().eval()
        self.adapter = randomise(SCEditAdapter.from_host(self.unet, **{**HINTS, **options})).eval()
        with torch.no_grad():  # images have to differ by more than the biases leave of them
            for conv in self.adapter.hint_embedding[::2]:
                conv.weight *= 3
        self.sample = torch.randn(batch, 4, *size)
        self.text = torch.randn(batch, 7, TEXT_DIM)
        self.image = torch.rand(batch, 3, 8 * size[0], 8 * size[1])
        if attach:
            self.adapter.attach(self.unet)

    @torch.no_grad()
    def call(self, model: nn.Module | None = None, sample: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        sample = self.sample if sample is None else sample
        text = self.text[:1].expand(len(sample), -1, -1) if len(sample) != len(self.text) else self.text
        return (self.unet if model is None else model)(sample, 500, text, return_dict=False, **inputs)[0]

    @torch.no_grad()
    def embed(self, image: torch.Tensor | None = None) -> list[torch.Tensor]:
        return self.adapter.embed(self.image if image is None else image)

    def conditioned(self, image: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
        with self.adapter.conditioning(hints=self.embed(image), scale=scale):
            return self.call()


@pytest.fixture
def models() -> Models:
    return Models()


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@torch.no_grad()
def explicit(models: Models, scale: float, residuals: list[torch.Tensor]) -> torch.Tensor:
    """The whole UNet, block by block, with skip connections edited in between as scepter's code does."""
    unet, adapter = models.unet, models.adapter
    timesteps = torch.full((len(models.sample),), 500)
    embedding = unet.time_embedding(unet.time_proj(timesteps))
    hidden = unet.conv_in(models.sample)
    skips = [hidden]
    for block in unet.down_blocks:
        text = {"encoder_hidden_states": models.text} if hasattr(block, "attentions") else {}
        hidden, outputs = block(hidden, embedding, **text)
        skips += outputs
    hidden = unet.mid_block(hidden, embedding, encoder_hidden_states=models.text)
    skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]

    hint = models.image
    convs = [layer for layer in adapter.hint_embedding if isinstance(layer, nn.Conv2d)]
    for number, conv in enumerate(convs):
        hint = F.conv2d(hint if number == 0 else F.silu(hint), conv.weight, conv.bias, conv.stride, padding=1)
    for number, (conv, tuner) in enumerate(zip(adapter.dense_hints, adapter.tuners, strict=True)):
        hint = F.conv2d(F.silu(hint), conv.weight, conv.bias, stride=2 if number == 2 else 1, padding=1)
        change = F.conv2d(skips[number] + hint, tuner.linear_1.weight[..., None, None], tuner.linear_1.bias)
        change = F.conv2d(F.gelu(change), tuner.linear_2.weight[..., None, None], tuner.linear_2.bias)
        skips[number] = skips[number] + scale * (hint + change)

    for block in unet.up_blocks:
        text = {"encoder_hidden_states": models.text} if hasattr(block, "attentions") else {}
        taken, skips = tuple(skips[-2:]), skips[:-2]
        hidden = block(hidden_states=hidden, res_hidden_states_tuple=taken, temb=embedding, **text)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))


@pytest.mark.parametrize("freeu", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_equals_the_networks_run_block_by_block(scale: float, freeu: bool) -> None:
    models = Models(batch=2)
    if freeu:
        models.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    shapes = [(8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4)]
    residuals = [torch.randn(2, *shape) for shape in shapes]
    zero = torch.zeros(1)  # what a ControlNet would add in the middle
    with models.adapter.conditioning(hints=models.embed(), scale=scale):
        edited = models.call(down_block_additional_residuals=residuals, mid_block_additional_residual=zero)
    models.adapter.detach()
    expected = explicit(models, scale, residuals)
    stock = models.call(down_block_additional_residuals=residuals, mid_block_additional_residual=zero)
    assert difference(edited, stock) > 1e-2
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-5)


def test_image_and_scale_change_the_output(models: Models) -> None:
    outputs = [
        models.call(),
        models.conditioned(),
        models.conditioned(torch.rand_like(models.image)),
        models.conditioned(scale=0.5),
    ]
    for first in range(4):
        for second in range(first):
            assert difference(outputs[first], outputs[second]) > 1e-3, (first, second)


def test_every_hint_is_used(models: Models) -> None:
    hints, expected = models.embed(), models.conditioned()
    for number in range(len(hints)):
        changed = [hint + 0.1 * (number == index) for index, hint in enumerate(hints)]
        with models.adapter.conditioning(hints=changed):
            assert difference(models.call(), expected) > 1e-3, number


def test_without_hints_or_with_scale_0_attached_is_stock() -> None:
    models = Models(attach=False)
    stock = models.call()
    models.adapter.attach(models.unet)
    assert torch.equal(models.call(), stock)
    assert difference(models.conditioned(), stock) > 1e-2
    assert torch.equal(models.conditioned(scale=0.0), stock)
    assert torch.equal(models.call(), stock)


def test_new_adapter_starts_as_the_stock_model(models: Models) -> None:
    stock = models.call()
    models.adapter.detach()
    models.adapter = SCEditAdapter.from_host(models.unet, **HINTS).attach(models.unet)
    assert torch.equal(models.conditioned(), stock)
    assert all(not hint.any() for hint in models.embed())
    assert all(tuner.linear_1.weight.any() for tuner in models.adapter.tuners)


def test_chain_of_zeros_learns(models: Models) -> None:
    """The biases first, then one convolution after the other."""
    adapter = SCEditAdapter.from_host(models.unet, **HINTS).attach(models.unet)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(6):
        adapter.set_conditioning(hints=adapter.embed(models.image))
        optimizer.zero_grad()
        models.unet(models.sample, 500, models.text).sample.square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in adapter.parameters())
    assert all(conv.weight.any() for conv in adapter.dense_hints)


def test_attach_and_detach_are_exact_inverses(models: Models) -> None:
    expected = models.conditioned()
    models.adapter.detach()
    stock, keys, text = models.call(), models.unet.state_dict().keys(), repr(models.unet)
    attributes = {name: sorted(module.__dict__) for name, module in models.unet.named_modules()}
    processors = models.unet.attn_processors
    for _ in range(2):
        models.adapter.attach(models.unet)
        assert models.adapter.is_attached(models.unet)
        assert models.unet.state_dict().keys() == keys
        assert torch.equal(models.conditioned(), expected)
        models.adapter.detach()
        assert not models.adapter.is_attached(models.unet)
        assert repr(models.unet) == text
        assert models.unet.attn_processors == processors
        assert {name: sorted(module.__dict__) for name, module in models.unet.named_modules()} == attributes
        assert torch.equal(models.conditioned(), stock)


def test_a_controlnet_has_nothing_to_edit(models: Models) -> None:
    controlnet = tiny_controlnet()
    down, _ = controlnet(models.sample, 500, models.text, models.image, return_dict=False)
    models.adapter.attach(controlnet)
    with models.adapter.conditioning(hints=models.embed()):
        attached, _ = controlnet(models.sample, 500, models.text, models.image, return_dict=False)
    assert all(torch.equal(*pair) for pair in zip(down, attached, strict=True))


@torch.no_grad()
def test_skips_may_be_positional(models: Models) -> None:
    block = models.unet.up_blocks[0]
    hidden, skips = torch.randn(1, 16, 4, 4), (torch.randn(1, 8, 4, 4), torch.randn(1, 16, 4, 4))
    temb = torch.randn(1, 32)
    stock = block(hidden, skips, temb)
    with models.adapter.conditioning(hints=models.embed()):
        by_keyword = block(hidden_states=hidden, res_hidden_states_tuple=skips, temb=temb)
        assert torch.equal(block(hidden, skips, temb), by_keyword)
    assert difference(by_keyword, stock) > 1e-2


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (9, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_latents_of_any_size(size: tuple[int, int], kernel: int) -> None:
    models = Models(size=size, dense_hint_kernel=kernel)
    stock, edited = models.call(), models.conditioned()
    assert edited.shape == (1, 4, *size)
    assert difference(edited, stock) > 1e-3
    half = tuple((side + 1) // 2 for side in size)
    assert [hint.shape for hint in models.embed()] == [
        (1, 8, *size),
        (1, 8, *size),
        (1, 8, *half),
        (1, 16, *half),
    ]


def test_halves_of_the_guidance_share_the_hints() -> None:
    models = Models(batch=2)
    sample = torch.randn(6, 4, 8, 8)
    with models.adapter.conditioning(hints=models.embed()):
        together = models.call(sample=sample)
    apart = []
    for number, latents in enumerate(sample.split(1)):
        with models.adapter.conditioning(hints=models.embed(models.image[[number % 2]])):
            apart.append(models.call(sample=latents))
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_tiles_are_embedded_by_themselves() -> None:
    models = Models(size=(8, 12))
    windows = tile_windows(8, 12, 8, 4)
    assert len(windows) == 2
    hints = models.embed(crop_tiles(models.image, windows, 8))
    with models.adapter.conditioning(hints=hints):
        together = models.call(sample=crop_tiles(models.sample, windows))
    apart = []
    for window in windows:
        with models.adapter.conditioning(hints=models.embed(window.crop(models.image, 8))):
            apart.append(models.call(sample=window.crop(models.sample)))
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_adapter_only(models: Models) -> None:
    models.unet.requires_grad_(False)
    models.image.requires_grad_()
    models.adapter.set_conditioning(hints=models.adapter.embed(models.image))
    models.unet(models.sample, 500, models.text).sample.square().mean().backward()
    assert all(parameter.grad.any() for parameter in models.adapter.parameters())
    assert all(parameter.grad is None for parameter in models.unet.parameters())
    assert models.image.grad.any()


def test_gradient_checkpointing_gives_equal_gradients(models: Models) -> None:
    models.unet.requires_grad_(False).train()
    models.adapter.train()
    calls = []
    for module in (models.adapter.hint_embedding, *models.adapter.tuners):
        module.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> list[torch.Tensor]:
        calls.clear()
        models.adapter.zero_grad()
        models.adapter.set_conditioning(hints=models.adapter.embed(models.image), scale=0.8)
        models.unet(models.sample, 500, models.text).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in models.adapter.parameters()]

    plain = gradients()
    assert len(calls) == 5
    for model in (models.unet, models.adapter):
        model.enable_gradient_checkpointing()
        assert model.is_gradient_checkpointing
    for gradient, checkpointed in zip(plain, gradients(), strict=True):
        assert gradient.any()
        assert torch.equal(gradient, checkpointed)
    assert len(calls) == 10  # all computed again


def test_saves_and_loads(tmp_path: Any) -> None:
    models = Models(hint_channels=(4, 5, 6, 7), dense_hint_kernel=1, down_ratio=0.5)
    expected = models.conditioned()
    models.adapter.save_pretrained(tmp_path)
    models.adapter.detach()
    loaded, report = SCEditAdapter.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    again = SCEditAdapter.from_config(models.adapter.config).eval()
    again.load_state_dict(loaded.state_dict())
    for adapter in (loaded, again):
        models.adapter = adapter.attach(models.unet)
        assert torch.equal(models.conditioned(), expected)
        adapter.detach()


def test_an_image_is_embedded_once(models: Models) -> None:
    calls = []
    models.adapter.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[0]))
    convolutions = []
    models.adapter.hint_embedding.register_forward_hook(lambda *_: convolutions.append(1))
    with models.adapter.conditioning(hints=models.embed()):
        for _ in range(3):
            models.call()
    assert len(convolutions) == 1
    # All computation with its weights enters through its forward.
    assert calls == ["dense_hints_of", "prepare_conditioning"] + ["edit_skips"] * 6


def test_offloaded_weights_are_brought_in(models: Models) -> None:
    expected = models.conditioned()
    accelerate.cpu_offload(models.adapter, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in models.adapter.parameters())
    assert torch.equal(models.conditioned(), expected)


def test_half_precision(models: Models) -> None:
    expected = models.conditioned()
    for name in ("unet", "adapter", "sample", "text"):
        setattr(models, name, getattr(models, name).to(torch.bfloat16))
    output = models.conditioned()  # the image is still in float32
    assert output.dtype == torch.bfloat16
    assert (output - expected).norm() / expected.norm() < 0.05


def test_compiles_as_one_graph_once(models: Models) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(models.unet, backend="aot_eager", fullgraph=True)
    for seed in range(3):
        hints = models.embed(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))
        with models.adapter.conditioning(hints=hints):
            expected = models.call()
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                torch.testing.assert_close(models.call(compiled), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "parameters"), [(3, 99.1), (1, 28.8)])
def test_sizes_at_stable_diffusion_1(kernel: int, parameters: float) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        adapter = SCEditAdapter.from_host(unet, dense_hint_kernel=kernel)
    assert adapter.config.skip_channels == [*[320] * 4, *[640] * 3, *[1280] * 5]
    assert adapter.config.downsamples == [3, 6, 9]
    assert sum(parameter.numel() for parameter in adapter.parameters()) / 1e6 == pytest.approx(parameters, abs=0.06)
    assert adapter.sites("unet") == {
        f"up_blocks.{number}": {"skips": [9 - 3 * number, 10 - 3 * number, 11 - 3 * number]} for number in range(4)
    }
    assert adapter.sites("controlnet") == {}


@pytest.mark.parametrize("layers", [1, 2, (1, 2, 1)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_unets_of_other_levels(levels: int, layers: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    if not isinstance(layers, int):
        layers = layers[:levels]
    unet = tiny_unet(
        block_out_channels=(8, 12, 16)[:levels],
        attention_head_dim=(2, 3, 4)[:levels],
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
    )
    # A VAE of two levels: two pixels to a latent.
    adapter = randomise(SCEditAdapter.from_host(unet, hint_channels=(4, 6))).attach(unet)
    models = Models(size=(6, 5), attach=False)
    models.unet, models.adapter, models.image = unet, adapter, torch.rand(1, 3, 12, 10)
    stock = models.call()
    found: list[torch.Tensor] = []
    for block in unet.up_blocks:
        block.register_forward_pre_hook(
            lambda module, args, kwargs: found.__setitem__(slice(0, 0), kwargs["res_hidden_states_tuple"]),
            with_kwargs=True,
        )
    assert difference(models.conditioned(), stock) > 1e-3
    assert [hint.shape for hint in models.embed()] == [skip.shape for skip in found]


def test_images_of_another_shape_are_refused(models: Models) -> None:
    for shape in ((3, 64, 64), (1, 4, 64, 64)):
        with pytest.raises(ValueError, match=r"`image` has shape .*expected \[batch, 3, height, width\]"):
            models.adapter.embed(torch.rand(shape))


def test_hints_of_another_adapter_are_refused(models: Models) -> None:
    hints = models.embed()
    for wrong in (hints[:3], [*hints, hints[-1]], hints[::-1]):
        with pytest.raises(ValueError, match=r"`hints` have shapes .*expected \[8, 8, 8, 16\] channels: give all"):
            models.adapter.set_conditioning(hints=wrong)
    assert not models.adapter.is_conditioned


def test_hints_of_another_size_or_batch_are_refused(models: Models) -> None:
    message = r"hint of skip connection 2 has the size \[4, 4\].*make it \[8, 4\]: embed"
    with models.adapter.conditioning(hints=models.embed()), pytest.raises(ValueError, match=message):
        models.call(sample=torch.randn(1, 4, 16, 8))
    message = "for 2 images, which does not divide the batch of 3"
    hints = models.embed(models.image.repeat(2, 1, 1, 1))
    with models.adapter.conditioning(hints=hints), pytest.raises(ValueError, match=message):
        models.call(sample=torch.randn(3, 4, 8, 8))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"block_out_channels": (8, 32)}, r"'up_blocks.0' of the unet has 32 channels, but the adapter expects 16"),
        (
            {"layers_per_block": 2},
            r"'up_blocks.0' of the unet takes 3 skip connections, but the adapter expects 2: use",
        ),
        (
            {
                "block_out_channels": (8,),
                "down_block_types": ("DownBlock2D",),
                "up_block_types": ("UpBlock2D",),
                "attention_head_dim": 2,
            },
            r"'up_blocks.0' of the unet has 8 channels, but the adapter expects 16",
        ),
    ],
)
def test_a_unet_of_another_shape_is_refused(models: Models, overrides: dict[str, Any], message: str) -> None:
    other = tiny_unet(**overrides)
    with pytest.raises(ValueError, match=message):
        models.adapter.attach(other)
    assert not models.adapter.is_attached(other)


def test_other_models_are_refused(models: Models) -> None:
    with pytest.raises(TypeError, match="not to a Linear"):
        models.adapter.attach(nn.Linear(1, 1))
