"""The tagger: RAM's image branch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from accelerate.utils import send_to_device
from diffusers import ModelMixin

from diffusers_sr.seesr.tagger import Tagger, TaggerOutput
from diffusers_sr.seesr.tagging_head import TaggingHead, TaggingHeadLayer
from tests.seesr.taggers import TAGS, assert_same, outputs


def test_every_image_has_its_own_logits_and_representation(tagger, pixel_values):
    output = tagger(pixel_values)
    assert output.logits.shape == (2, 5)
    assert output.representation.shape == (2, 1 + 64, 16)
    assert not torch.allclose(output.logits[0], output.logits[1], atol=1e-3)
    assert not torch.allclose(output.representation[0], output.representation[1], atol=1e-3)
    alone = tagger(pixel_values[1:])
    torch.testing.assert_close(alone.logits, output.logits[1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.representation, output.representation[1:], atol=1e-5, rtol=1e-4)


def test_first_token_of_the_representation_is_the_mean(tagger, pixel_values):
    representation = tagger(pixel_values).representation
    torch.testing.assert_close(representation[:, 0], representation[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-4)


def test_every_weight_matters(tagger, pixel_values):
    output = tagger(pixel_values)
    (output.logits.square().sum() + output.representation.square().sum()).backward()
    # A key's bias shifts all scores of a query alike, which the softmax does not see.
    idle = [name for name, weight in tagger.named_parameters() if not name.endswith((".k_proj.bias", ".key.bias"))]
    assert all(tagger.get_parameter(name).grad.abs().max() > 0 for name in idle)


class Query2Label(torch.nn.Module):
    """RAM's tagging head of stock modules: what BERT's layers are without self-attention, one query for each tag."""

    def __init__(self, head: TaggingHead, num_heads: int) -> None:
        super().__init__()
        hidden_size, representation_dim = head.label_proj.weight.shape
        self.head = head
        self.layers = torch.nn.ModuleList()
        for layer in head.layers:
            assert isinstance(layer, TaggingHeadLayer)
            attention = torch.nn.MultiheadAttention(
                hidden_size, num_heads, kdim=representation_dim, vdim=representation_dim, batch_first=True
            )
            with torch.no_grad():
                attention.q_proj_weight.copy_(layer.query.weight)
                attention.k_proj_weight.copy_(layer.key.weight)
                attention.v_proj_weight.copy_(layer.value.weight)
                attention.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key.bias, layer.value.bias]))
            attention.out_proj.load_state_dict(layer.attention_output.state_dict())
            norms = [torch.nn.LayerNorm(hidden_size, eps=1e-12) for _ in range(2)]
            norms[0].load_state_dict(layer.attention_norm.state_dict())
            norms[1].load_state_dict(layer.feed_forward_norm.state_dict())
            width = layer.intermediate.out_features
            feed_forward = torch.nn.Sequential(
                torch.nn.Linear(hidden_size, width), torch.nn.GELU("none"), torch.nn.Linear(width, hidden_size)
            )
            feed_forward[0].load_state_dict(layer.intermediate.state_dict())
            feed_forward[2].load_state_dict(layer.feed_forward_output.state_dict())
            self.layers.append(torch.nn.ModuleList([attention, norms[0], feed_forward, norms[1]]))

    def forward(self, representation: torch.Tensor) -> torch.Tensor:
        labels = torch.einsum("td,hd->th", self.head.label_embed, self.head.label_proj.weight)
        hidden_states = (labels + self.head.label_proj.bias).clamp(min=0).repeat(len(representation), 1, 1)
        for layer in self.layers:
            assert isinstance(layer, torch.nn.ModuleList)
            attention, attention_norm, feed_forward, feed_forward_norm = layer
            attended, _ = attention(hidden_states, representation, representation)
            hidden_states = attention_norm(hidden_states + attended)
            hidden_states = feed_forward_norm(hidden_states + feed_forward(hidden_states))
        return hidden_states @ self.head.classifier.weight[0] + self.head.classifier.bias


@pytest.mark.parametrize("scale", [1, 1e-3])
def test_logits_are_those_of_query2label(tagger, scale):
    """At the smaller scale what the norms see varies by less than torch's epsilon of 1e-5: BERT's own is 1e-12."""
    representation = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(2))
    head = tagger.tagging_head
    with torch.no_grad():
        for module in (head.label_proj, *head.layers.children()):
            for name, parameter in module.named_parameters():
                if not name.startswith(("query", "key", "value", "intermediate", "feed_forward_norm")):
                    parameter.mul_(scale)
        expected = Query2Label(head, num_heads=4).eval()(representation)
        logits = head(representation)
    assert logits.std(dim=1).min() > 1e-3
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_preprocess_resizes_and_normalises(tagger):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    for size in ((7, 9), (64, 64), (200, 100)):
        pixel_values = tagger.preprocess(mean.expand(1, 3, *size))
        assert pixel_values.shape == (1, 3, 64, 64)
        torch.testing.assert_close(pixel_values, torch.zeros(1, 3, 64, 64), atol=1e-6, rtol=0)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(tagger.preprocess(image), (image - mean) / std)
    assert tagger.half().preprocess(image).dtype == torch.float16


def test_preprocess_without_antialiasing_reads_two_pixels_along_each_axis(tagger):
    # A pixel of the result lies between the two in the middle of four. With antialiasing it reads eight, by their
    # distances: (1, 3, 5, 7, 7, 5, 3, 1) / 32.
    stripes = torch.zeros(1, 3, 256, 256)
    stripes[..., 1::4] = 1
    grey = tagger.preprocess(torch.full((1, 3, 64, 64), 0.5))
    torch.testing.assert_close(tagger.preprocess(stripes, antialias=False), grey)
    # At a distance of 0.5 and of 3.5 pixels.
    grey = tagger.preprocess(torch.full((1, 3, 64, 64), 8 / 32))
    torch.testing.assert_close(tagger.preprocess(stripes)[..., 1:-1, 1:-1], grey[..., 1:-1, 1:-1])


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 4, 64, 64)])
def test_preprocess_wants_rgb_batches(tagger, shape):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        tagger.preprocess(torch.zeros(shape))


def test_tags_are_those_above_their_own_threshold_in_order(tagger):
    logits = torch.tensor([[0.7, 0.1, 1.3, -1.0, 5.0], [0.5, -0.1, 1.5, -9.0, -9.0]])
    assert tagger.tags(logits) == [["bridge", "cat", "tree"], ["flower"]]


def test_thresholds_are_those_of_float32_in_every_dtype(tagger):
    # Between 0.65 and what float16 makes of it.
    logits = torch.logit(torch.tensor([[0.64995, 0, 0, 0, 0]]))
    assert tagger.tags(logits) == [[]]
    assert tagger.half().tags(logits) == [[]]
    assert tagger.bfloat16().tags(logits) == [[]]


def test_tags_and_thresholds_have_to_match():
    with pytest.raises(ValueError, match="5 tags but 4 thresholds"):
        Tagger(tags=TAGS, thresholds=[0.5] * 4)


def test_image_size_has_to_be_whole_windows():
    with pytest.raises(ValueError, match=r"`image_size` is 224.*multiple of 384"):
        Tagger(tags=TAGS, thresholds=[0.5] * 5, image_size=224)


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_save_and_load(tagger, pixel_values, tmp_path, low_cpu_mem_usage):
    tagger.save_pretrained(tmp_path)
    loaded = Tagger.from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert_same(loaded, tagger, pixel_values)
    assert loaded.config.tags == TAGS
    assert loaded.config.thresholds == [0.65, 0.5, 0.8, 0.5, 0.5]


def test_save_variant_and_load_in_half_precision(tagger, pixel_values, tmp_path):
    tagger.half().save_pretrained(tmp_path, variant="fp16")
    loaded = Tagger.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert loaded.dtype == torch.float16
    assert_same(loaded, tagger, pixel_values.half())


def test_gradient_checkpointing_gives_equal_gradients(tagger, pixel_values):
    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)  # dropout and stochastic depth are the same in both runs
        tagger.zero_grad()
        output = tagger(pixel_values)
        (output.logits.square().mean() + output.representation.square().mean()).backward()
        return {name: parameter.grad.clone() for name, parameter in tagger.named_parameters()}

    tagger.train()
    plain = gradients()
    tagger.enable_gradient_checkpointing()
    assert tagger.is_gradient_checkpointing
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=partial("{}: {}".format, name))


def test_dropout_is_for_training_alone(tagger, pixel_values):
    assert torch.equal(outputs(tagger, pixel_values), outputs(tagger, pixel_values))
    tagger.train()
    assert not torch.equal(outputs(tagger, pixel_values), outputs(tagger, pixel_values))


def test_pipelines_see_the_arguments_of_save_pretrained():
    import inspect

    assert inspect.signature(Tagger.save_pretrained) == inspect.signature(ModelMixin.save_pretrained)


def test_output_can_be_moved_between_devices_by_accelerate():
    output = TaggerOutput(logits=torch.ones(1, 2), representation=torch.zeros(1, 3, 4))
    moved = send_to_device(output, "meta")
    assert isinstance(moved, TaggerOutput)
    assert moved.logits.is_meta and moved.representation.is_meta
    assert moved.representation.shape == (1, 3, 4)
