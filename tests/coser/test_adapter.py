"""CoSeR's all-in-attention on a stock UNet: where it is, what it reads, and that it comes off without a trace."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from diffusers_sr.attention.control_features import control_features
from diffusers_sr.coser.adapter import AllInAttention, CoSeRAdapter
from diffusers_sr.coser.controlnet import LatentControlNetModel
from tests.components import STABLE_DIFFUSION_2, TEXT_DIM, components, randomise, tiny_unet

SITE = "mid_block.attentions.0.transformer_blocks.0"


class Models(NamedTuple):
    unet: UNet2DConditionModel
    controlnet: LatentControlNetModel
    adapter: CoSeRAdapter
    sample: torch.Tensor
    text: torch.Tensor

    def features(self, seed: int, references: int = 1) -> list[torch.Tensor]:
        condition = torch.randn(1, 4, 8, 8 * references, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return control_features(self.controlnet, self.sample, torch.tensor(500), self.text, condition)

    def call(self, unet: UNet2DConditionModel | None = None, copies: int = 1) -> torch.Tensor:
        sample, text = (tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for tensor in (self.sample, self.text))
        with torch.no_grad():
            return (self.unet if unet is None else unet)(sample, 500, text, return_dict=False)[0]


@pytest.fixture
def models() -> Models:
    parts = components("coser")
    torch.manual_seed(0)
    return Models(
        parts["unet"], parts["controlnet"], parts["adapter"], torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_DIM)
    )


def test_both_control_features_change_the_output(models: Models) -> None:
    stock = models.call()
    models.adapter.attach(models.unet)
    assert torch.equal(models.call(), stock)
    outputs = [stock]
    for lr, reference in ((1, 2), (3, 2), (1, 3)):
        with models.adapter.conditioning(lr=models.features(lr), reference=models.features(reference)):
            outputs.append(models.call())
    for first in range(4):
        for second in range(first):
            assert (outputs[first] - outputs[second]).abs().max() > 1e-3
    assert torch.equal(models.call(), stock)


def test_what_is_new_knows_the_image_and_leaves_the_unet_as_it_is() -> None:
    unet = tiny_unet()
    controlnet = LatentControlNetModel.for_unet(unet)
    models = Models(
        unet,
        controlnet,
        CoSeRAdapter.from_hosts(unet, controlnet),
        torch.randn(1, 4, 8, 8),
        torch.randn(1, 7, TEXT_DIM),
    )
    stock, features = models.call(), models.features(1)
    assert all(
        (feature - other).abs().max() > 1e-2 for feature, other in zip(features, models.features(2), strict=True)
    )
    models.adapter.attach(models.unet)
    with models.adapter.conditioning(lr=features, reference=features):
        assert torch.equal(models.call(), stock)


def test_attach_and_detach_are_exact_inverses(models: Models) -> None:
    stock, before, text = models.call(), dict(models.unet.state_dict()), repr(models.unet)
    processors = models.unet.attn_processors
    for _ in range(2):
        models.adapter.attach(models.unet)
        assert models.adapter.is_attached(models.unet)
        assert models.unet.state_dict().keys() == before.keys()
        models.adapter.detach()
        assert not models.adapter.is_attached(models.unet)
        assert repr(models.unet) == text
        assert models.unet.attn_processors == processors
        assert torch.equal(models.call(), stock)


def test_a_controlnet_on_latents_needs_no_hook(models: Models) -> None:
    before = dict(models.controlnet.__dict__)
    models.adapter.attach(models.controlnet)
    assert models.adapter.is_attached(models.controlnet)
    assert models.controlnet.__dict__.keys() == before.keys()
    assert not hasattr(models.controlnet.controlnet_cond_embedding, "_diffusers_hook")


def test_new_adapter_starts_as_the_stock_model() -> None:
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    controlnet = LatentControlNetModel.for_unet(unet)
    adapter = CoSeRAdapter.from_hosts(unet, controlnet).attach(unet)
    models = Models(unet, randomise(controlnet), adapter, torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_DIM))
    stock = models.call()
    with adapter.conditioning(lr=models.features(1), reference=models.features(2)):
        assert torch.equal(models.call(), stock)
    attention = adapter.unet[SITE.replace(".", "__")]
    block = unet.get_submodule(SITE)
    assert torch.equal(attention.attn_reference.to_k.weight, block.attn1.to_k.weight)
    assert torch.equal(attention.norm_hidden.weight, block.norm1.weight)


def test_sites_of_stable_diffusion_2() -> None:
    encoder = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**STABLE_DIFFUSION_2)
        controlnet = LatentControlNetModel(**STABLE_DIFFUSION_2, down_block_types=encoder, conditioning_channels=4)
        adapter = CoSeRAdapter.from_hosts(unet, controlnet)
    read = {
        site: (options["control_index"], options["control_channels"])
        for site, options in adapter.sites("unet").items()
    }
    assert list(read.values()) == [
        *((-1, 1280), (8, 1280), (7, 1280), (6, 640)),
        *((5, 640), (4, 640), (3, 320), (2, 320), (1, 320), (0, 320)),
    ]
    assert "up_blocks.1.attentions.0.transformer_blocks.0" in read
    # The official 115.6 million less the 8.1 million it never uses.
    assert sum(parameter.numel() for parameter in adapter.parameters()) / 1e6 == pytest.approx(107.5, abs=0.06)
    assert sum(parameter.numel() for parameter in controlnet.parameters()) / 1e6 == pytest.approx(344.1, abs=0.06)


@pytest.mark.parametrize("references", [1, 3])
def test_conditioning_of_one_serves_several(models: Models, references: int) -> None:
    models.adapter.attach(models.unet)
    with models.adapter.conditioning(lr=models.features(1), reference=models.features(2, references)):
        one, three = models.call(), models.call(copies=3)
    torch.testing.assert_close(three, one.repeat(3, 1, 1, 1), atol=1e-5, rtol=0)


def test_similarity_is_a_choice(models: Models) -> None:
    outputs = []
    for similarity in ("normalized", "scaled"):
        adapter = CoSeRAdapter(models.adapter.config.unet_sites, similarity).eval()
        adapter.load_state_dict(models.adapter.state_dict())
        with adapter.attach(models.unet).conditioning(lr=models.features(1), reference=models.features(2)):
            outputs.append(models.call())
        adapter.detach()
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4


def test_the_bicubic_filter_is_saved_and_was_pillows_before_it_was(models: Models, tmp_path: Path) -> None:
    sites = models.adapter.config.unet_sites
    for filter_ in ("pillow", "torch"):
        CoSeRAdapter(sites, bicubic=filter_).save_pretrained(tmp_path / filter_)
        assert CoSeRAdapter.from_pretrained(tmp_path / filter_).config.bicubic == filter_
    config = tmp_path / "torch" / "config.json"
    earlier = json.loads(config.read_text())
    del earlier["bicubic"]
    config.write_text(json.dumps(earlier))
    assert CoSeRAdapter.from_pretrained(tmp_path / "torch").config.bicubic == "pillow"
    with pytest.raises(ValueError, match="bicubic is 'lanczos': give one of 'pillow', 'torch'"):
        CoSeRAdapter(sites, bicubic="lanczos")


def test_gradient_checkpointing_gives_equal_gradients(models: Models) -> None:
    models.unet.requires_grad_(False).train()
    models.adapter.attach(models.unet)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            for model in (models.unet, models.adapter):
                model.enable_gradient_checkpointing()
                assert model.is_gradient_checkpointing
        models.adapter.zero_grad()
        models.adapter.set_conditioning(lr=models.features(1), reference=models.features(2))
        models.unet(models.sample, 500, models.text).sample.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in models.adapter.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_copy_of_an_attached_unet(models: Models) -> None:
    models.adapter.attach(models.unet)
    copied = copy.deepcopy(models.unet)
    with models.adapter.conditioning(lr=models.features(1), reference=models.features(2)):
        assert torch.equal(models.call(copied), models.call())
    assert models.adapter.is_attached(copied)


def test_compiles_as_one_graph_once(models: Models) -> None:
    models.adapter.attach(models.unet)
    compiled = torch.compile(models.unet, backend="eager", fullgraph=True)
    for seed in range(3):
        with models.adapter.conditioning(lr=models.features(seed), reference=models.features(seed + 5)):
            expected = models.call()
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                torch.testing.assert_close(models.call(compiled), expected, atol=1e-5, rtol=1e-5)


def test_features_of_another_controlnet_are_refused(models: Models) -> None:
    features = models.features(1)
    for wrong in (features[:1], [feature[:, :-1] for feature in features]):
        with pytest.raises(ValueError, match="give all residuals of the ControlNet"):
            models.adapter.set_conditioning(lr=features, reference=wrong)


def test_a_unet_of_another_shape_is_refused(models: Models) -> None:
    with pytest.raises(ValueError, match="16 channels, but the adapter expects"):
        CoSeRAdapter.from_hosts(tiny_unet(block_out_channels=(8, 32)), models.controlnet).attach(models.unet)
    with pytest.raises(TypeError):
        models.adapter.attach(torch.nn.Linear(1, 1))


def test_latent_controlnet_is_saved_and_loaded(models: Models, tmp_path: object) -> None:
    models.controlnet.save_pretrained(tmp_path)
    loaded = LatentControlNetModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, ControlNetModel)
    condition = torch.randn(1, 4, 8, 8)
    first, second = (
        control_features(controlnet, models.sample, torch.tensor(5), models.text, condition)
        for controlnet in (models.controlnet, loaded)
    )
    assert all((one - other).abs().max() < 1e-5 for one, other in zip(first, second, strict=True))


def test_configuration_builds_the_same_architecture(models: Models) -> None:
    again = CoSeRAdapter.from_config(models.adapter.config)
    assert again.config.similarity == models.adapter.config.similarity
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in models.adapter.state_dict().items()
    }


def test_softmax_in_place_of_the_one_hot_attention(models: Models, tmp_path: Path) -> None:
    """Against the attention written out; the weights are the same."""
    softmax = CoSeRAdapter.from_hosts(models.unet, models.controlnet, reference_attention="softmax")
    softmax.load_state_dict(models.adapter.state_dict())
    softmax.save_pretrained(tmp_path)
    softmax = CoSeRAdapter.from_pretrained(tmp_path)
    new, old = (cast(AllInAttention, each.unet[SITE.replace(".", "__")]) for each in (softmax, models.adapter))
    lr, reference = models.features(1)[-1], models.features(2)[-1]
    with torch.no_grad():
        query = new.proj_lr(new.norm_lr(lr).flatten(2).transpose(1, 2))
        tokens = new.norm_reference(reference).flatten(2).transpose(1, 2)
        query, key, value = (
            projection(each).unflatten(-1, (new.attn_reference.heads, -1)).transpose(1, 2)
            for projection, each in (
                (new.attn_reference.to_q, query),
                (new.attn_reference.to_k, tokens),
                (new.attn_reference.to_v, tokens),
            )
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        expected = new.out_reference(new.attn_reference.to_out[0]((weights @ value).transpose(1, 2).flatten(2)))
        residual, _ = new.prepare(lr, reference, torch.float32)
        one_hot, _ = old.prepare(lr, reference, torch.float32)
    torch.testing.assert_close(residual, expected, atol=1e-5, rtol=1e-5)
    assert residual is not None and one_hot is not None
    assert (residual - one_hot).abs().max() > 1e-3


def test_a_configuration_without_the_kind_of_attention_is_one_hot(models: Models) -> None:
    config = {name: value for name, value in models.adapter.config.items() if name != "reference_attention"}
    assert CoSeRAdapter.from_config(config).config.reference_attention == "one-hot"
    with pytest.raises(ValueError, match="reference_attention is 'hard': give one of 'one-hot', 'softmax', 'none'"):
        CoSeRAdapter.from_hosts(models.unet, models.controlnet, reference_attention="hard")
