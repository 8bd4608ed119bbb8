"""`OneStepPipeline`: one pass of a LoRA-tuned stock UNet (PiSA-SR, OSEDiff and their kin)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderDC, AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..pipeline import SuperResolutionPipeline
from ..publishing.paper import Paper
from ..sampling.finite import Stage
from ..sampling.guidance import Guidance
from ..sampling.photo import Photo, Start
from ..seesr.tagger import Tagger
from ..texts import as_texts, pair_texts
from .call import OneStepCall
from .denoiser import OneStepDenoiser
from .lora import LoraSets
from .lora_loading import LoraSetsLoader
from .lora_use import in_use
from .prediction import PIXEL, SEMANTIC
from .scheduler import OneStepScheduler
from .stored_prompt import StoredPrompt

if TYPE_CHECKING:
    import os


class OneStepPipeline(LoraSetsLoader, SuperResolutionPipeline[OneStepCall]):
    """One step: the image's latents, one pass of a stock UNet with LoRA, and a closed form for the result.

    There is no ControlNet, no attention adapter and no guidance. What sets the published models apart is in the
    components: the formula and the timestep in the scheduler, the LoRA sets in `lora`, and the source of the prompt:
    a stored embedding, a tagger, or the user. All LoRA sets are active on the UNet, as adapters of PEFT: `fuse_lora()`
    makes a call faster. LoRAs of the user's own can be loaded besides them: `set_adapters`, `disable_lora` and the
    scale in `cross_attention_kwargs` are for those, while the model's sets take part in every call.

    The official codes draw the image's latents and the noise from the global generator; here they come from
    `generator`. They stretch images to multiples of 8, and some lose the last resize; here images are padded, and the
    result has the size that was asked for. Defaults are those of PiSA-SR and OSEDiff: tiles of 96 × 96 latents that
    overlap by 32, and the colours by adain.

    Args:
        text_encoder, tokenizer: may be None, if that is given explicitly, for models with a `stored_prompt` and for
            calls with `prompt_embeds`.
        scheduler: the closed form.
        lora: the LoRA sets; None for a model whose UNet was trained whole, or merged.
        stored_prompt: the embedding that calls without a prompt take.
        tagger: sees the enlarged image, and its tags precede the prompt (OSEDiff, GDPO-SR).
        origin: for the model card, what converted weights come with; see `Origin.as_config`.

    The other arguments are those of `SuperResolutionPipeline`.

    Raises:
        ValueError: if the UNet does not have the layers of the LoRA sets.

    Example::

        pipeline = OneStepPipeline.from_pretrained("path/to/pisa", torch_dtype=torch.float16).to("cuda")
        image = pipeline(load_image("photo.png"), upscale=4, semantic_scale=0.8).images[0]
    """

    call_class = OneStepCall
    model_cpu_offload_seq = "tagger->text_encoder->unet->vae"
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["stored_prompt"]  # it is read, never run: no hook brings it in
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer", "lora", "stored_prompt", "tagger"]
    paper: ClassVar[Paper] = Paper("PiSA-SR", "2412.03017")
    converters: ClassVar[dict[str, str]] = {
        name: f"diffusers_sr.one_step.convert.convert_{name}" for name in ("pisa", "osediff", "gdpo", "omgsr", "hypir")
    }
    _call_defaults: ClassVar[dict[str, Any]] = {
        "tile_size": 768,
        "tile_overlap": 256,
        "process_size": 512,
        "color_fix": "adain",
        "pixel_scale": 1.0,
        "semantic_scale": 1.0,
    }

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderDC,
        unet: UNet2DConditionModel,
        scheduler: OneStepScheduler,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        lora: LoraSets | None = None,
        stored_prompt: StoredPrompt | None = None,
        tagger: Tagger | None = None,
        call_defaults: dict[str, Any] | None = None,
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vae, text_encoder, tokenizer, unet, scheduler, call_defaults)
        self.register_modules(lora=lora, stored_prompt=stored_prompt, tagger=tagger)
        self.register_to_config(origin=origin)
        self._attach()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; with other LoRA sets, or None, those that were there come off the UNet.

        Raises:
            ValueError: if those are fused into the UNet's weights.
        """
        before = self.__dict__.get("lora") if name == "lora" else None
        if before is not None and before is not value:
            before.detach(self.unet)
        super().__setattr__(name, value)

    def check_components(self, call: OneStepCall) -> None:
        """Check also that the dials have something to act on: LoRA sets, or the residual of a model without any.

        Raises:
            ValueError: if the dials are not 1 and there is no such thing, if they differ and the sets are fused, or if
                the scheduler is another one.
        """
        super().check_components(self._with_stored_prompt(call))
        if not isinstance(self.scheduler, OneStepScheduler):
            raise ValueError(
                f"The scheduler is of {type(self.scheduler).__name__}, expected OneStepScheduler: a one-step model "
                "has a formula instead of a choice of samplers. Leave it as it was loaded."
            )
        if call.pixel_scale == call.semantic_scale == 1:
            return
        if call.semantic_scale is None and self.lora is None:
            return
        dials = f"pixel_scale={call.pixel_scale} and semantic_scale={call.semantic_scale}"
        if call.fidelity is not None:
            dials += f" (fidelity={call.fidelity})"
        if self.lora is None or not {PIXEL, SEMANTIC} <= set(self.lora.names):
            sets = [] if self.lora is None else sorted(self.lora.names)
            raise ValueError(
                f"{dials} weigh the LoRA sets {PIXEL!r} and {SEMANTIC!r}, but the model has {sets}: leave these "
                "arguments out."
            )
        is_fused = self.lora.is_fused(self.unet) or self.has_fused_projections
        if is_fused and call.pixel_scale != call.semantic_scale:
            raise ValueError(
                f"{dials} need the LoRA sets one by one, but they are fused: call unfuse_lora(), or make both equal."
            )

    def shown(self, photo: Photo) -> torch.Tensor:
        """Choose the enlarged images, which the official codes tag."""
        return photo.enlarged

    def describe(self, image: torch.Tensor, call: OneStepCall) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Tag the images, unless the call has tags or embeddings."""
        if self.tagger is None or call.tags is not None or call.prompt_embeds is not None:
            return {"tags": call.tags}, {}
        pixels = self.tagger.preprocess(image)
        seen = Stage("tagging", self.tagger).run(lambda: self.tagger(pixels))
        return {"tags": [", ".join(names) for names in self.tagger.tags(seen.logits)]}, {}

    def write_prompt(
        self, prompt: str | list[str] | None, tags: str | list[str] | None = None
    ) -> str | list[str] | None:
        """Write OSEDiff's prompt, "`tags`, `prompt`,", whose place stays empty without one; without tags the prompt.

        Raises:
            ValueError: if `tags` and `prompt` are lists of different lengths.
        """
        if tags is None:
            return prompt
        return [f"{tag}, {text}," for text, tag in pair_texts(as_texts(prompt or ""), as_texts(tags))]

    def prepare_guidance(self, call: OneStepCall, texts: dict[str, Any], num_images: int) -> Guidance:
        """Encode the prompt, or take the stored one."""
        return super().prepare_guidance(self._with_stored_prompt(call), texts, num_images)

    def prepare_control(
        self, call: OneStepCall, photo: Photo, seen: dict[str, torch.Tensor], guidance: Guidance, start: Start
    ) -> None:
        """Return nothing: the image enters by its latents alone."""

    def prepare_latents(self, call: OneStepCall, start: Start, scheduler: OneStepScheduler) -> torch.Tensor:
        """Take the image's latents, with noise if the scheduler has some."""
        assert start.image_latents is not None
        return scheduler.start(start.image_latents, start.noise)

    def denoiser(self, call: OneStepCall) -> OneStepDenoiser:
        """Make the denoiser with the dials of the call."""
        lora = None if call.pixel_scale == call.semantic_scale else self.lora
        kwargs = {**(call.cross_attention_kwargs or {})}
        if self.lora is not None:
            kwargs.pop("scale", None)  # the UNet would scale the model's own sets, too
        semantic_scale = call.pixel_scale if call.semantic_scale is None else call.semantic_scale
        return OneStepDenoiser(self.unet, lora, call.pixel_scale, semantic_scale, kwargs or None)

    def denoise(self, call: OneStepCall, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Denoise with the LoRA sets in use. See `SuperResolutionPipeline.denoise`."""
        with nullcontext() if self.lora is None else in_use(self.lora, self.unet, call.lora_scale):
            return super().denoise(call, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the pipeline's folder, with a stock UNet. See `PublishablePipeline.save_pretrained`.

        Raises:
            ValueError: if LoRAs are fused into the UNet, or it has LoRAs besides the model's own.
        """
        if others := self.other_loras:
            raise ValueError(
                f"The UNet has LoRAs {others} besides the model's own, which the folder of a model cannot hold: call "
                "unload_lora_weights() first, and before that fuse_lora() if they should stay in the weights."
            )
        if self.lora is not None:
            self.lora.detach(self.unet)
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self._attach()

    def _attach(self) -> None:
        if self.lora is not None:
            self.lora.attach(self.unet)

    def _with_stored_prompt(self, call: OneStepCall) -> OneStepCall:
        if self.stored_prompt is None or call.prompt is not None or call.prompt_embeds is not None:
            return call
        return replace(call, prompt_embeds=self.stored_prompt.embedding.detach())
