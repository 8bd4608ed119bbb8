"""The stored embedding of a prompt is the text encoder's."""

from __future__ import annotations

import torch

from diffusers_sr.one_step.stored_prompt import StoredPrompt
from tests.components import TEXT_DIM, tiny_text_encoder, tiny_tokenizer


def test_it_has_the_padding_of_the_tokenizer(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "!"  # as in Stable Diffusion 2; the end token is not repeated
    text_encoder = tiny_text_encoder(tokenizer).eval()
    stored = StoredPrompt.from_text(tokenizer, text_encoder)
    tokens = torch.tensor([[tokenizer.bos_token_id, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * 75]])
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    with torch.no_grad():
        assert torch.equal(stored.embedding, text_encoder(tokens)[0])
    assert not stored.embedding.requires_grad

    stored.save_pretrained(tmp_path)
    loaded = StoredPrompt.from_pretrained(tmp_path)
    assert torch.equal(loaded.embedding, stored.embedding)
    assert loaded.embedding.shape == (1, 77, TEXT_DIM)
    assert loaded.config.prompt == ""
