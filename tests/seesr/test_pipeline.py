import pytest
import torch

from diffusers_sr.image.pixels import read_images
from diffusers_sr.seesr.pipeline import SeeSRPipeline, full_prompts
from tests.components import components, inputs, tiny_image


@pytest.fixture
def pipeline():
    return build()


def build(**overrides):
    pipeline = SeeSRPipeline(**{**components("seesr"), **overrides})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline, seed=0, **overrides):
    arguments = {name: value for name, value in inputs("seesr").items() if name not in ("tags", "representation")}
    generator = torch.Generator().manual_seed(seed)
    return pipeline(**{**arguments, "output_type": "pt", "generator": generator, **overrides}).images


def describe(pipeline, *images):
    with torch.no_grad():
        description, conditioning = pipeline.describe(read_images(images), pipeline.check_inputs())
    return description["tags"], conditioning["representation"]


class Texts:
    """The texts that the text encoder is given, in words."""

    def __init__(self, pipeline):
        self.calls = []
        self.tokenizer = pipeline.tokenizer
        pipeline.text_encoder.register_forward_pre_hook(self.read, with_kwargs=True)

    def read(self, module, args, kwargs):
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.calls.append(self.tokenizer.batch_decode(tokens, skip_special_tokens=True))


def test_the_prompt_is_the_official_one():
    assert full_prompts(["cat, tree"], [""]) == ["cat, tree, ,clean, high-resolution, 8k"]
    # The official shell script passes `--prompt None`.
    assert full_prompts(["cat, tree"], ["None"]) == ["cat, tree, None,clean, high-resolution, 8k"]
    assert full_prompts(["cat"], ["a photo"]) == ["cat, a photo,clean, high-resolution, 8k"]
    assert full_prompts([""], [""]) == [", ,clean, high-resolution, 8k"]
    assert full_prompts(["a", "b"], ["x"])[1] == "b, x,clean, high-resolution, 8k"
    assert full_prompts(["a"], ["x", "y"])[1] == "a, y,clean, high-resolution, 8k"
    with pytest.raises(ValueError, match="3 prompts for 2 images"):
        full_prompts(["a", "b"], ["x", "y", "z"])


def test_what_the_text_encoder_reads(pipeline):
    texts = Texts(pipeline)
    run(pipeline, tags="cat, tree", prompt=None, negative_prompt=None)
    run(pipeline, tags="cat", prompt="photo", negative_prompt="bad")
    run(pipeline, tags="cat", prompt="photo", guidance_scale=1.0)
    run(pipeline, image=[tiny_image()] * 2, tags=["cat", "tree"], prompt=["x", "y"], negative_prompt=["v", "w"])

    def read(*prompts):
        tokens = pipeline.tokenizer(list(prompts), padding="max_length", max_length=77, truncation=True).input_ids
        return pipeline.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    assert texts.calls == [
        read("cat, tree, ,clean, high-resolution, 8k", "dotted, noise, blur, lowres, smooth"),
        read("cat, photo,clean, high-resolution, 8k", "bad"),
        read("cat, photo,clean, high-resolution, 8k"),
        read("cat, x,clean, high-resolution, 8k", "tree, y,clean, high-resolution, 8k", "v", "w"),
    ]


def test_tags_are_those_of_the_image(pipeline):
    first, second = tiny_image(seed=0), tiny_image(seed=3)
    tags, _ = describe(pipeline, first, second)
    expected = pipeline.tagger.tags(pipeline.tagger(pipeline.tagger.preprocess(read_images(first))).logits)[0]
    assert tags[0] == ", ".join(expected) != ""
    texts = Texts(pipeline)
    run(pipeline, image=[first, second])
    assert texts.calls[0][0].replace(" ", "").startswith(tags[0].replace(" ", ""))


def test_tags_and_representation_each_change_the_result(pipeline):
    result = run(pipeline)
    (tags,), representation = describe(pipeline, tiny_image())
    assert torch.equal(run(pipeline, tags=tags, representation=representation), result)
    assert torch.equal(run(pipeline, tags=tags), result)
    assert torch.equal(run(pipeline, representation=representation), result)
    assert (run(pipeline, tags="something else") - result).abs().max() > 1e-4
    assert (run(pipeline, representation=representation.flip(-1)) - result).abs().max() > 1e-4


def test_the_representation_acts_without_guidance_too_and_in_both_halves(pipeline):
    """Guidance changes nothing if the prompts are equal, whatever the representation: it is in both halves."""
    plain = run(pipeline, guidance_scale=1.0, prompt="a", tags="b")
    _, representation = describe(pipeline, tiny_image())
    changed = run(pipeline, guidance_scale=1.0, prompt="a", tags="b", representation=representation.flip(-1))
    assert (changed - plain).abs().max() > 1e-4
    same = {"tags": "b", "prompt": "a", "negative_prompt": "b, a,clean, high-resolution, 8k"}
    assert (run(pipeline, guidance_scale=7.0, **same) - plain).abs().max() < 1e-4


def test_the_tagger_sees_the_image_itself_and_once(pipeline):
    seen = []
    pipeline.tagger.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = tiny_image(16, 24)
    expected = pipeline.tagger.preprocess(read_images(image))
    tiles = {"tile_size": 64, "tile_overlap": 32}
    run(pipeline, image=[image, image], num_images_per_prompt=2, num_inference_steps=3, **tiles)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected.expand(2, -1, -1, -1), atol=0, rtol=0)
    seen.clear()
    run(pipeline, tags="cat")
    assert len(seen) == 1
    run(pipeline, tags="cat", representation=torch.randn(1, 5, 16))
    assert len(seen) == 1


def test_keys_and_values_of_the_representation_are_computed_once(pipeline):
    calls = []
    for transformer in [*pipeline.adapter.unet.values(), *pipeline.adapter.controlnet.values()]:
        attn2 = transformer.transformer_blocks[0].attn2
        attn2.to_k.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    run(pipeline, num_inference_steps=4)
    assert calls == [1] * (len(pipeline.adapter.unet) + len(pipeline.adapter.controlnet))


def test_without_tagger(pipeline):
    (tags,), representation = describe(pipeline, tiny_image())
    bare = build(tagger=None)
    given = {"representation": representation}
    assert torch.equal(run(bare, **given, tags=tags), run(pipeline))
    assert torch.equal(run(bare, **given), run(pipeline, tags=""))
    embeds = pipeline.encode_prompt("a", "b", tags="c")
    given |= {"prompt": None, "negative_prompt": None, "prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    assert torch.equal(run(bare, **given), run(pipeline, prompt="a", negative_prompt="b", tags="c"))
    with pytest.raises(ValueError, match=r"no tagger.*representation="):
        run(bare)


def test_one_representation_serves_all_images(pipeline):
    representation = torch.randn(1, 5, 16)
    images = [tiny_image(seed=0), tiny_image(seed=1)]
    one = run(pipeline, image=images, representation=representation)
    assert torch.equal(run(pipeline, image=images, representation=representation.repeat(2, 1, 1)), one)
    with pytest.raises(ValueError, match="3 of `representation` for 2 images"):
        run(pipeline, image=images, representation=representation.repeat(3, 1, 1))


def test_save_and_load_without_tagger(tmp_path):
    build(tagger=None).save_pretrained(tmp_path)
    assert SeeSRPipeline.from_pretrained(tmp_path, tagger=None).tagger is None
    with pytest.raises(ValueError, match="names no tagger: give it as an argument"):
        SeeSRPipeline.from_pretrained(tmp_path)
    tagger = components("seesr")["tagger"]
    assert SeeSRPipeline.from_pretrained(tmp_path, tagger=tagger).tagger is tagger


def test_official_defaults():
    assert build().config.call_defaults == {
        "negative_prompt": "dotted, noise, blur, lowres, smooth",
        "num_inference_steps": 50,
        "guidance_scale": 5.5,
        "controlnet_conditioning_scale": 1.0,
        "start_point": "lr",
        "strength": 1.0,
        "tile_size": 768,
        "tile_overlap": 32,
        "process_size": 512,
        "color_fix": "adain",
    }
