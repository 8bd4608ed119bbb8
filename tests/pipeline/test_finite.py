"""A NaN or an overflow in any component is made good in float32, or is an error: it never becomes a picture."""

from __future__ import annotations

import logging

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from diffusers_sr.sampling.finite import NotFiniteError
from tests.pipeline.tiny import PIPELINES, build, difference, run

COMMON = {
    ("vae", "encoder.conv_in.weight"): "encoding",
    ("vae", "quant_conv.bias"): "encoding",
    ("vae", "post_quant_conv.bias"): "decoding",
    ("vae", "decoder.conv_out.weight"): "decoding",
    ("text_encoder", "encoder.layers.0.self_attn.v_proj.weight"): "encoding `prompt`",
    ("text_encoder", "final_layer_norm.bias"): "encoding `prompt`",
    ("unet", "conv_in.weight"): "denoising",
    ("unet", "conv_out.bias"): "denoising",
    ("controlnet", "conv_in.weight"): "denoising",
    ("controlnet", "mid_block.resnets.1.conv2.bias"): "denoising",
}
EMBEDDING = {("controlnet", "controlnet_cond_embedding.conv_in.bias"): "embedding the control image"}
PIXEL_ATTENTION = {("adapter", "unet.up_blocks__0__resnets__0.norm.weight"): "denoising"}
FUSED = "controlnet.mid_block__attentions__0"
OWN = {
    "seesr": EMBEDDING
    | {
        ("adapter", "unet.up_blocks__1__attentions__0.proj_out.bias"): "denoising",
        ("adapter", "unet.up_blocks__1__attentions__0.transformer_blocks.0.attn2.to_v.weight"): (
            "preparing the representation"
        ),
        ("tagger", "swin.embeddings.patch_embeddings.projection.weight"): "tagging",
        ("tagger", "tagging_head.classifier.bias"): "tagging",
    },
    "coser": {
        ("adapter", "unet.mid_block__attentions__0__transformer_blocks__0.norm_lr.weight"): "denoising",
        ("adapter", "unet.up_blocks__1__attentions__1__transformer_blocks__0.norm_reference.bias"): "denoising",
        ("cognitive_encoder", "query_tokens"): "encoding the cognitive embedding",
        ("cognitive_encoder", "srresnet.conv_first.weight"): "encoding the cognitive embedding",
        ("cfw", "fusion_layers.2.resnet_in.norm1.weight"): "decoding",
        ("cfw", "fusion_layers.1.resnet_out.conv2.bias"): "decoding",
    },
    "cassr": EMBEDDING
    | {
        ("adapter", "unet.up_blocks__1__attentions__0__transformer_blocks__0.lr.attn.to_v.weight"): "denoising",
        ("activation", "hint_embedding.0.weight"): "embedding the control image",
        ("activation", "tuners.3.linear_2.bias"): "denoising",
    },
    "xpsr": EMBEDDING
    | PIXEL_ATTENTION
    | {
        ("adapter", f"{FUSED}.fusion.proj_out.bias"): "denoising",
        ("adapter", f"{FUSED}.low_level.transformer_blocks.0.attn2.to_k.weight"): "preparing the low-level prompts",
    },
    "pasd": EMBEDDING | PIXEL_ATTENTION,
}
# Every weight with one value, those that all methods have with both.
INJECTIONS = [
    (method, component, weight, stage, (float("nan"), float("inf"))[(first + second) % 2])
    for first, method in enumerate(PIPELINES)
    for second, ((component, weight), stage) in enumerate((COMMON | OWN[method]).items())
]

# In each method: two layers, the first of which is made to leave float16's range, and the second to bring what it
# gives back to its size.
ATTENTION = "transformer_blocks.0.attn1.to_v", "transformer_blocks.0.attn1.to_out.0"
OVERFLOWS = [
    ("seesr", "vae", "encoder.conv_out", "quant_conv", "encoding"),
    ("seesr", "vae", "post_quant_conv", "decoder.conv_in", "decoding"),
    (
        "seesr",
        "text_encoder",
        "encoder.layers.0.self_attn.v_proj",
        "encoder.layers.0.self_attn.out_proj",
        "encoding `prompt`",
    ),
    ("seesr", "unet", *(f"down_blocks.0.attentions.0.{name}" for name in ATTENTION), "denoising"),
    ("seesr", "controlnet", *(f"mid_block.attentions.0.{name}" for name in ATTENTION), "denoising"),
    (
        "seesr",
        "controlnet",
        "controlnet_cond_embedding.blocks.0",
        "controlnet_cond_embedding.blocks.1",
        "embedding the control image",
    ),
    ("seesr", "adapter", *(f"unet.up_blocks__1__attentions__0.{name}" for name in ATTENTION), "denoising"),
    (
        "seesr",
        "adapter",
        "unet.up_blocks__1__attentions__0.transformer_blocks.0.attn2.to_v",
        "unet.up_blocks__1__attentions__0.transformer_blocks.0.attn2.to_out.0",
        "preparing the representation",
    ),
    (
        "seesr",
        "tagger",
        "swin.encoder.layers.0.blocks.0.attention.v_proj",
        "swin.encoder.layers.0.blocks.0.attention.o_proj",
        "tagging",
    ),
    (
        "coser",
        "adapter",
        "unet.mid_block__attentions__0__transformer_blocks__0.attn_lr.to_v",
        "unet.mid_block__attentions__0__transformer_blocks__0.attn_lr.to_out.0",
        "denoising",
    ),
    (
        "coser",
        "cognitive_encoder",
        "clip.vision_model.encoder.layers.0.self_attn.v_proj",
        "clip.vision_model.encoder.layers.0.self_attn.out_proj",
        "encoding the cognitive embedding",
    ),
    ("coser", "cfw", "fusion_layers.2.rrdbs.0.rdb1.conv4", "fusion_layers.2.rrdbs.0.rdb1.conv5", "decoding"),
    ("cassr", "activation", "tuners.0.linear_1", "tuners.0.linear_2", "denoising"),
    (
        "cassr",
        "adapter",
        "unet.up_blocks__1__attentions__0__transformer_blocks__0.lr.attn.to_v",
        "unet.up_blocks__1__attentions__0__transformer_blocks__0.lr.attn.to_out.0",
        "denoising",
    ),
    (
        "xpsr",
        "adapter",
        f"{FUSED}.low_level.transformer_blocks.0.attn2.to_v",
        f"{FUSED}.low_level.transformer_blocks.0.attn2.to_out.0",
        "preparing the low-level prompts",
    ),
    ("pasd", "adapter", *(f"unet.up_blocks__0__resnets__0.{name}" for name in ATTENTION), "denoising"),
]


def arguments(method, component):
    """The arguments of a call that runs the component."""
    return {"tags": None, "process_size": 16} if component == "tagger" else {"process_size": 16}


def overflowing(method, component, first, second):
    """A pipeline in which `first` gives values of at least some 100,000."""
    pipeline = build(method)
    model = getattr(pipeline, component)
    before, after = model.get_submodule(first), model.get_submodule(second)
    factor = 5e4 / max(parameter.abs().max().item() for parameter in before.parameters())
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.mul_(factor)
        after.weight.div_(factor)
    return pipeline


@pytest.mark.parametrize(("method", "component", "weight", "stage", "value"), INJECTIONS)
def test_a_weight_that_is_not_finite_is_an_error_that_names_the_stage(method, component, weight, stage, value):
    pipeline = build(method)
    getattr(pipeline, component).get_parameter(weight).data.fill_(value)
    with pytest.raises(NotFiniteError, match=f"The result of {stage} is not finite: check"):
        run(pipeline, method, **arguments(method, component))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_error_says_if_float32_did_not_help(dtype, caplog):
    pipeline = build("seesr").to(dtype)
    pipeline.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(
        NotFiniteError, match=r"The result of decoding is not finite, in float32 either: check .* AutoencoderKL"
    ):
        run(pipeline)
    assert "The result of decoding is not finite in half precision" in caplog.text


@pytest.mark.parametrize(("method", "component", "first", "second", "stage"), OVERFLOWS)
def test_what_overflows_in_float16_is_computed_again_in_float32(method, component, first, second, stage, caplog):
    pipeline = overflowing(method, component, first, second).to(torch.float16)
    model = getattr(pipeline, component)
    weights = {name: (parameter, parameter.data.clone()) for name, parameter in model.named_parameters()}
    with caplog.at_level(logging.WARNING):
        result = run(pipeline, method, **arguments(method, component))
    warnings = [record.getMessage() for record in caplog.records if "finite" in record.getMessage()]
    # What a stage prepares in float32 is too large for those after it as well.
    names = [each.removeprefix("The result of ").split(" is not finite in half precision")[0] for each in warnings]
    assert names[0] == stage
    assert set(names[1:]) <= {stage, "denoising"}
    for name, parameter in model.named_parameters():
        assert parameter is weights[name][0] and torch.equal(parameter, weights[name][1])
        assert parameter.dtype == torch.float16
    expected = run(pipeline.to(torch.float32), method, **arguments(method, component))
    assert difference(result, expected) < 8 / 255
    assert (result - expected).abs().mean() < 1 / 255


def test_cosers_control_features_may_leave_the_range_of_float16(caplog):
    """As trained ones do: no stage has to be computed again."""
    pipeline = build("coser")
    with torch.no_grad():
        for conv in (*pipeline.controlnet.controlnet_down_blocks, pipeline.controlnet.controlnet_mid_block):
            conv.weight.mul_(5e4 / conv.weight.abs().max())
    residuals = []
    pipeline.controlnet.register_forward_hook(lambda _, __, output: residuals.extend(output[0]))
    pipeline.to(torch.float16)
    result = run(pipeline, "coser")
    assert "finite" not in caplog.text
    assert max(residual.abs().max() for residual in residuals) > 65504
    assert difference(result, run(pipeline.to(torch.float32), "coser")) < 4 / 255


def sequentially(model):
    accelerate.cpu_offload(model, torch.device("cpu"))


def as_a_whole(model):
    accelerate.cpu_offload_with_hook(model, torch.device("cpu"))


def in_groups(model):
    apply_group_offloading(model, onload_device="cpu", offload_device="cpu", offload_type="leaf_level")


def in_eight_bits(model):
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float16)


@pytest.mark.parametrize("offload", [sequentially, as_a_whole, in_groups])
def test_with_offloading(offload, caplog):
    def pipeline():
        return overflowing("seesr", "unet", OVERFLOWS[3][2], OVERFLOWS[3][3]).to(torch.float16)

    expected = run(pipeline())
    offloaded = pipeline()
    for name in ("unet", "controlnet", "adapter", "vae", "text_encoder"):
        offload(getattr(offloaded, name))
    caplog.clear()
    assert torch.equal(run(offloaded), expected)
    assert torch.equal(run(offloaded), expected)
    assert caplog.text.count("The result of denoising is not finite in half precision") == 2
    for name in ("unet", "controlnet", "adapter"):
        assert {parameter.dtype for parameter in getattr(offloaded, name).parameters()} == {torch.float16}


def test_with_layerwise_casting(caplog):
    pipeline = overflowing("seesr", "vae", "post_quant_conv", "decoder.conv_in").to(torch.float16)
    expected = run(pipeline)
    in_eight_bits(pipeline.unet)
    before = {name: parameter.dtype for name, parameter in pipeline.unet.named_parameters()}
    assert torch.float8_e4m3fn in before.values()
    pipeline.unet.get_submodule(OVERFLOWS[3][2]).weight.data.fill_(448)  # the largest value of the type
    pipeline.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.norm1").bias.data.fill_(1000)
    assert difference(run(pipeline), expected) > 0
    assert "The result of denoising is not finite in half precision" in caplog.text
    assert {name: parameter.dtype for name, parameter in pipeline.unet.named_parameters()} == before


def test_under_autocast(caplog):
    pipeline = overflowing("coser", "unet", OVERFLOWS[3][2], OVERFLOWS[3][3])
    expected = run(pipeline, "coser")
    with torch.autocast("cpu", torch.float16):
        result = run(pipeline, "coser")
    assert "The result of denoising is not finite in half precision" in caplog.text
    assert difference(result, expected) < 8 / 255


def test_what_cannot_be_computed_in_float32_is_an_error(monkeypatch):
    pipeline = overflowing("seesr", "vae", "post_quant_conv", "decoder.conv_in").to(torch.float16)

    def only_half(module, args):
        if args[0].dtype != torch.float16:
            raise RuntimeError("there is no kernel for float32")

    pipeline.vae.decoder.register_forward_pre_hook(only_half)
    with pytest.raises(
        NotFiniteError, match=r"The result of decoding .* not be computed in float32: there is no kernel"
    ):
        run(pipeline)


def test_a_callback_that_returns_nan_is_an_error(pipeline, method):
    def spoil(pipeline, step, timestep, tensors):
        return {"latents": tensors["latents"] * float("nan")} if step == 1 else {}

    with pytest.raises(NotFiniteError, match="The result of denoising is not finite"):
        run(pipeline, method, callback_on_step_end=spoil, output_type="latent")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_noise_of_a_seed_is_the_same_in_every_type(method, dtype):
    """Noise that is drawn in half precision is another, from fewer values."""
    expected = run(build(method), method, start_point="noise", num_inference_steps=1, output_type="latent")
    result = run(build(method).to(dtype), method, start_point="noise", num_inference_steps=1, output_type="latent")
    assert torch.corrcoef(torch.stack([expected.flatten(), result.flatten().float()]))[0, 1] > 0.99
