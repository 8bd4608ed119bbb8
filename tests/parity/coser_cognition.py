"""CoSeR's cognitive encoder on weights in the official layout: its Q-Former, and its SRResNet.

Q-Former: `image_tokens`, `text_emb` and `text_tokens` give `out`, `target` and `loss`. What shapes do not show, the
`heads`, `layer_norm_eps` and `act` of a `config.json`, is as in every CoSeR where it is not given.

SRResNet: `image` gives `out`.
"""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusers_sr.coser.cognition import CognitiveEncoder, cognitive_loss, cognitive_target
from diffusers_sr.coser.convert_cognition import cognitive_encoder_from_official
from diffusers_sr.coser.srresnet import SRResNet
from tests.parity.arrays import Tensors

QFORMER_INPUTS = ("image_tokens", "text_emb", "text_tokens")
SRRESNET_INPUTS = ("image",)
# The official names of what a Q-Former's configuration here calls otherwise.
CONFIG_NAMES = {"num_attention_heads": "heads", "layer_norm_eps": "layer_norm_eps", "hidden_act": "act"}


def qformer_outputs(state: Tensors, given: Tensors, config: dict[str, Any]) -> Tensors:
    text, token_ids = given["text_emb"], given["text_tokens"]
    embedding = load_encoder(state, config).query(given["image_tokens"])
    return {
        "out": embedding,
        "target": cognitive_target(text, token_ids, embedding.shape[1]),
        "loss": cognitive_loss(embedding, text, token_ids),
    }


def srresnet_outputs(state: Tensors, given: Tensors, config: dict[str, Any]) -> Tensors:
    blocks = sum(name.startswith("body.") and name.endswith(".conv1.weight") for name in state)
    srresnet = SRResNet(len(state["conv_first.weight"]), blocks)
    srresnet.load_state_dict(state, assign=True)  # the names are the official ones
    return {"out": srresnet(given["image"])}


def load_encoder(qformer: Tensors, config: dict[str, Any]) -> CognitiveEncoder:
    """The encoder of a Q-Former, with a CLIP and an SRResNet that are never run: CLIP's tokens are given."""
    official = {f"global_adapter.{name}": tensor for name, tensor in qformer.items()}
    official |= {f"pre_sr_model.{name}": tensor for name, tensor in SRResNet(1, 0).state_dict().items()}
    width = qformer["Qformer.encoder.layer.0.crossattention.self.key.weight"].shape[1]
    clip = CLIPVisionConfig(hidden_size=12, intermediate_size=1, num_hidden_layers=1, projection_dim=width)
    encoder = cognitive_encoder_from_official(official, CLIPVisionModelWithProjection(clip))
    options = {name: config[key] for name, key in CONFIG_NAMES.items() if key in config}
    configured = CognitiveEncoder.from_config(
        encoder.config, qformer_config={**encoder.config.qformer_config, **options}
    )
    configured.load_state_dict(encoder.state_dict(), assign=True)
    return configured.eval()
