"""The captioner, on tiny random models of transformers with their real processors and chat templates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from diffusers_sr.xpsr.captioner import (
    HIGH_LEVEL_INSTRUCTION,
    LOW_LEVEL_INSTRUCTION,
    Captioner,
    captioner_settings,
)
from diffusers_sr.xpsr.prompts import ImagePrompts, PromptCache
from tests.components import randomise, tiny_image, tiny_tokenizer

IMAGES = [tiny_image(20, 30), Image.new("RGB", (40, 16), "red"), tiny_image(9, 50, seed=3)]

TEMPLATES = {
    "llava": (
        "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
        "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}"
    ),
    "idefics3": (
        "<s>{% for message in messages %}{{ message['role'] | capitalize }}:{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}"
    ),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes, so that line breaks are among what a random model says."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def text_config(tokens: PreTrainedTokenizerFast, size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def tiny_llava() -> tuple[Any, Any]:
    """LLaVA of 16×16 pixels in four tokens, whatever the image's size."""
    tokens = tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["llava"],
    )
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=16, patch_size=8, projection_dim=16),
        text_config=text_config(tokens, len(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    return LlavaForConditionalGeneration(config), processor


def tiny_idefics3() -> tuple[Any, Any]:
    """Idefics3, which SmolVLM is one of: four tokens for each 32×32 pixels, so that images differ in length."""
    tokens = tokenizer()
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokens,
        image_seq_len=4,
        chat_template=TEMPLATES["idefics3"],
    )
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        text_config=text_config(tokens, len(tokens)),
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config), processor


def build(name: str, **options: Any) -> Captioner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = {"llava": tiny_llava, "idefics3": tiny_idefics3}[name]()
        for parameter in randomise(model).parameters():
            if parameter.ndim >= 2:  # so large that what it sees makes a difference to what it says
                nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return Captioner(model, processor, **{"name": "tiny", "max_new_tokens": 12, **options})


@pytest.fixture(scope="module", params=["llava", "idefics3"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def prompts(name: str) -> list[ImagePrompts]:
    return build(name)(IMAGES)


def test_a_prompt_of_each_kind_for_each_image(prompts: list[ImagePrompts]) -> None:
    assert [type(each) for each in prompts] == [ImagePrompts] * 3
    texts = [text for each in prompts for text in each]
    assert all(texts)
    assert len(set(texts)) == 6  # the instruction and the image both make a difference


@pytest.mark.parametrize("batch_size", [1, 2])
def test_images_do_not_depend_on_their_batch(
    name: str, prompts: list[ImagePrompts], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = build(name, batch_size=batch_size)
    sizes = []
    generate = captioner.model.generate

    def watched(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(captioner.model, "generate", watched)
    assert captioner(IMAGES) == prompts
    assert sizes == {1: [1] * 6, 2: [2, 2, 1, 1]}[batch_size]
    assert captioner([IMAGES[2], IMAGES[0]]) == [prompts[2], prompts[0]]
    assert captioner([]) == []


def test_what_the_model_is_given(name: str) -> None:
    captioner = build(name)
    inputs = captioner._inputs(IMAGES, "Why?")
    tokens = captioner.processor.tokenizer
    texts = tokens.batch_decode(inputs["input_ids"])
    for text, mask in zip(texts, inputs["attention_mask"], strict=True):
        # Padding is on the left, and nothing but it is masked.
        assert text.count("<pad>") == len(mask) - mask.sum()
        assert text.lstrip("<pad>").lower().startswith(("user:", "s>user:"))
        assert text.endswith(("Why? A: ", "Why?<end_of_utterance>\nA: "))
        assert text.count("<s>") == (name == "idefics3")
        assert "<image>" in text
    assert (max(text.count("<pad>") for text in texts) > 0) == (name == "idefics3")
    other = captioner._inputs(IMAGES, "How?")
    assert not torch.equal(other["input_ids"], inputs["input_ids"])
    assert torch.equal(other["pixel_values"], inputs["pixel_values"])
    first, second, third = inputs["pixel_values"]
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_instructions_are_asked(name: str, prompts: list[ImagePrompts]) -> None:
    captioner = build(name, high_level_instruction=LOW_LEVEL_INSTRUCTION, low_level_instruction="Why?")
    for other, each in zip(captioner(IMAGES), prompts, strict=True):
        assert other.high_level == each.low_level
        assert other.low_level not in each


def test_generation_is_deterministic_whatever_the_model_is_set_to(name: str, prompts: list[ImagePrompts]) -> None:
    captioner = build(name)
    captioner.model.generation_config.do_sample = True
    captioner.model.generation_config.temperature = 5.0
    captioner.model.train()
    captioner = Captioner(captioner.model, captioner.processor, max_new_tokens=12)
    assert captioner(IMAGES) == prompts


def test_only_new_tokens_are_decoded_on_one_line() -> None:
    """A model that has to say what it is told: spaces, line breaks and the end, none of which is in a prompt."""
    captioner = build("llava", max_new_tokens=13)
    tokens = captioner.processor.tokenizer
    said = iter(tokens(" a\n\nb \r\n c", add_special_tokens=False)["input_ids"] + [tokens.eos_token_id] * 9)

    class Say(nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*hidden.shape[:-1], len(tokens))
            logits[..., next(said)] = 1
            return logits

    captioner.model.lm_head = Say()
    assert captioner.answer(IMAGES[:2], HIGH_LEVEL_INSTRUCTION) == ["a b c", "a b c"]


def test_max_new_tokens_counts_what_is_generated(name: str, prompts: list[ImagePrompts]) -> None:
    shorter = build(name, max_new_tokens=3)(IMAGES)
    for short, long in zip(shorter, prompts, strict=True):
        assert all(len(text) <= 3 for text in short)
        assert all(a[:1] == b[:1] for a, b in zip(short, long, strict=True))


def test_modes_of_images(name: str, prompts: list[ImagePrompts]) -> None:
    captioner = build(name)
    assert captioner([IMAGES[0].convert("RGBA")]) == prompts[:1]
    grey = IMAGES[0].convert("L")
    assert captioner([grey]) == captioner([grey.convert("RGB")])


def test_saved_and_loaded(name: str, prompts: list[ImagePrompts], tmp_path: Any) -> None:
    captioner = build(name)
    captioner.model.save_pretrained(tmp_path)
    captioner.processor.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(str(tmp_path), max_new_tokens=12)
    assert loaded(IMAGES) == prompts
    assert loaded.name == str(tmp_path)
    half = Captioner.from_pretrained(str(tmp_path), "cpu", torch.bfloat16, max_new_tokens=2, name="half", batch_size=1)
    assert half.model.dtype == torch.bfloat16
    assert (half.name, half.max_new_tokens, half.batch_size) == ("half", 2, 1)
    assert len(half(IMAGES)) == 3


def test_settings_tell_captioners_apart(tmp_path: Any) -> None:
    captioner = build("llava")
    assert captioner.settings == captioner_settings("tiny", max_new_tokens=12)
    others = [
        captioner_settings("tiny"),
        captioner_settings("other", max_new_tokens=12),
        captioner_settings("tiny", "What?", max_new_tokens=12),
        captioner_settings("tiny", low_level_instruction="What?", max_new_tokens=12),
    ]
    files = {PromptCache(tmp_path, settings).path for settings in [captioner.settings, *others]}
    assert len(files) == 5


def test_what_is_no_captioner(tmp_path: Any) -> None:
    with pytest.raises(OSError, match=rf"loaded from '{tmp_path}/none'.*'HuggingFaceTB/SmolVLM-500M-Instruct'"):
        Captioner.from_pretrained(str(tmp_path / "none"))
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(OSError, match="No captioner could be loaded"):
        Captioner.from_pretrained(str(tmp_path))


def test_a_processor_that_needs_what_is_not_installed(tmp_path: Any) -> None:
    """SmolVLM2's sees videos, which takes torchvision and num2words."""
    captioner = build("idefics3")
    captioner.model.save_pretrained(tmp_path)
    captioner.processor.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(file.read_text().replace("Idefics3Processor", "SmolVLMProcessor"))
    with pytest.raises(OSError, match=r"SmolVLM-500M-Instruct' or 'llava-hf/llava-1.5-7b-hf'.*need torchvision"):
        Captioner.from_pretrained(str(tmp_path))


def test_without_a_chat_template() -> None:
    captioner = build("llava")
    captioner.processor.chat_template = None
    with pytest.raises(ValueError, match="The LlavaProcessor has no chat template"):
        Captioner(captioner.model, captioner.processor)


@pytest.mark.parametrize("option", ["max_new_tokens", "batch_size"])
def test_counts_below_one(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0, but has to be at least 1"):
        build("llava", **{option: 0})
