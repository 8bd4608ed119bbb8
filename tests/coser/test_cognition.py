"""The cognitive encoder: what it computes, and how it is trained."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from diffusers_sr.coser.cognition import IMAGE_MEAN, IMAGE_STD, cognitive_loss, cognitive_target, freeze_clip
from tests.coser.cognitive_encoders import embedding


def test_every_image_has_its_own_embedding(encoder, image):
    output = encoder(image)
    assert output.embedding.shape == (2, 5, 32)
    assert output.image_tokens.shape == (2, 1 + 4, 12)
    assert not torch.allclose(output.embedding[0], output.embedding[1], atol=1e-2)
    alone = encoder(image[1:])
    torch.testing.assert_close(alone.embedding, output.embedding[1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.image_tokens, output.image_tokens[1:], atol=1e-4, rtol=1e-4)


def test_every_weight_matters(encoder, image):
    encoder(image).embedding.square().sum().backward()
    # A key's bias shifts all scores of a query alike, which the softmax does not see; the tokens are those before
    # CLIP's last norm.
    idle = (".k_proj.bias", ".key.bias", ".post_layernorm.weight", ".post_layernorm.bias")
    for name, parameter in encoder.named_parameters():
        if name.endswith(idle[2:]):
            assert parameter.grad is None, name
        elif not name.endswith(idle):
            assert parameter.grad.abs().max() > 0, name


def test_image_tokens_are_the_projection_of_the_last_block(encoder, image):
    given: dict[str, torch.Tensor] = {}
    handle = encoder.clip.register_forward_pre_hook(lambda _, arguments: given.update(pixel_values=arguments[0]))
    with torch.no_grad():
        tokens = encoder(image).image_tokens
        handle.remove()
        clip = CLIPVisionModelWithProjection(encoder.clip.config).eval()
        clip.load_state_dict(encoder.clip.state_dict())
        last = clip(given["pixel_values"], output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(tokens, last @ clip.visual_projection.weight.T)
        assert not torch.allclose(tokens, clip.visual_projection(clip.vision_model.post_layernorm(last)), atol=0.1)


def bicubic_matrix(length: int, size: int) -> torch.Tensor:
    """Cubic convolution with a = -0.75 at pixel centres, the border repeated: one row of weights for each result."""
    matrix = torch.zeros(size, length, dtype=torch.float64)
    for row in range(size):
        centre = (row + 0.5) * length / size - 0.5
        for position in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - position)
            weight = 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(position, 0), length - 1)] += weight
    return matrix


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (10, 13), (40, 11)])
def test_clip_sees_the_enlarged_image_squashed_without_antialiasing_or_clipping(encoder, size):
    """Smaller and larger than CLIP's square of 28 pixels."""
    seen: dict[str, torch.Tensor] = {}
    encoder.srresnet.register_forward_hook(lambda _, arguments, output: seen.update(enlarged=output))
    encoder.clip.register_forward_pre_hook(lambda _, arguments: seen.update(pixel_values=arguments[0]))
    with torch.no_grad():
        for parameter in encoder.double().srresnet.parameters():
            parameter.mul_(3)
        encoder(torch.rand(1, 3, *size))
    enlarged = seen["enlarged"]
    assert enlarged.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert enlarged.min() < 0 or enlarged.max() > 1
    rows, columns = (bicubic_matrix(length, 28) for length in enlarged.shape[-2:])
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    expected = (rows @ enlarged @ columns.T - mean) / std
    torch.testing.assert_close(seen["pixel_values"], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (2, 8, 8, 3)])
def test_an_image_is_an_rgb_batch(encoder, shape):
    with pytest.raises(ValueError, match=re.escape(f"{list(shape)}, but has to be [B, 3, H, W]")):
        encoder(torch.zeros(shape))


def test_dropout_is_for_training_alone(encoder, image):
    assert torch.equal(embedding(encoder, image), embedding(encoder, image))
    encoder.train()
    assert not torch.equal(embedding(encoder, image), embedding(encoder, image))


def test_frozen_clip_lets_gradients_through(encoder, image):
    assert freeze_clip(encoder) is encoder
    encoder(image).embedding.square().sum().backward()
    assert all(parameter.grad is None for parameter in encoder.clip.parameters())
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"srresnet", "qformer", "query_tokens"}
    for parameter in (*encoder.srresnet.parameters(), encoder.query_tokens):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_gradient_checkpointing_gives_equal_gradients(encoder, image):
    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)  # dropout is the same in both runs
        encoder.zero_grad()
        encoder(image).embedding.square().mean().backward()
        trained = (item for item in encoder.named_parameters() if item[1].requires_grad)
        return {name: parameter.grad.clone() for name, parameter in trained}

    freeze_clip(encoder).train()
    plain = gradients()
    encoder.enable_gradient_checkpointing()
    assert encoder.is_gradient_checkpointing
    calls = []
    for block in (encoder.srresnet.body[0], encoder.qformer.encoder.layer[0].attention):
        block.register_forward_pre_hook(lambda module, _: calls.append(module))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=partial("{}: {}".format, name))
    assert len(calls) == 4  # each block once forward, once again for its gradients


# The end-of-text token has the largest id, and is followed by padding of the same or of a smaller one.
@pytest.mark.parametrize(
    ("token_ids", "positions"),
    [
        ([90, 5, 99, 0, 0, 0, 0, 0], [0, 1, 2, 2, 2]),
        ([90, 5, 99, 99, 99, 99, 99, 99], [0, 1, 2, 2, 2]),
        ([90, 5, 6, 7, 99, 0, 0, 0], [0, 1, 2, 3, 4]),
        ([90, 5, 6, 7, 8, 99, 0, 0], [1, 2, 3, 4, 5]),
        ([90, 5, 6, 7, 8, 9, 10, 99], [3, 4, 5, 6, 7]),
        ([99, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
    ],
)
def test_target_is_the_last_tokens_up_to_the_end_of_text(token_ids, positions):
    states = torch.randn(2, 8, 3)
    other = [90, 5, 6, 99, 0, 0, 0, 0]
    target = cognitive_target(states, torch.tensor([token_ids, other]), 5)
    assert torch.equal(target, torch.stack([states[0, positions], states[1, [0, 1, 2, 3, 3]]]))


def test_target_of_more_queries_than_tokens():
    states = torch.randn(1, 3, 2)
    target = cognitive_target(states, torch.tensor([[90, 4, 99]]), 6)
    assert torch.equal(target, states[:, [0, 1, 2, 2, 2, 2]])


def test_target_of_one_query_is_the_class_token():
    """The end-of-text token, at position 2 here."""
    states = torch.arange(10.0).view(1, 5, 2)
    assert torch.equal(cognitive_target(states, torch.tensor([[7, 3, 9, 9, 9]]), 1), states[:, 2:3])


def test_loss_is_the_mean_squared_error_in_single_precision():
    states = torch.randn(1, 8, 3)
    token_ids = torch.tensor([[90, 5, 6, 99, 0, 0, 0, 0]])
    given = torch.randn(1, 4, 3, requires_grad=True)
    loss = cognitive_loss(given, states, token_ids)
    torch.testing.assert_close(loss, (given - states[:, :4]).square().mean())
    loss.backward()
    torch.testing.assert_close(given.grad, (given.detach() - states[:, :4]) * 2 / 12)
    assert cognitive_loss(given.half(), states.half(), token_ids).dtype == torch.float32


def test_every_token_has_its_state():
    with pytest.raises(ValueError, match=re.escape("[1, 7], but `text_hidden_states` has [1, 8, 3]")):
        cognitive_target(torch.zeros(1, 8, 3), torch.zeros(1, 7, dtype=torch.long), 5)
