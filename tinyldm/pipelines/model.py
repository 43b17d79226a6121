"""A loaded checkpoint, and what one does with it: the public class, thin on top of the walk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.diffusion.random import TorchGenerator
from tinyldm.errors import InputError
from tinyldm.models.tiled import TILE, tiled
from tinyldm.pipelines.adapters import AppliedLora
from tinyldm.pipelines.conditioners import given_conditions
from tinyldm.pipelines.control import Control, Reader, check_fits
from tinyldm.pipelines.editing_calls import EditingCalls
from tinyldm.pipelines.image_prompt import ImagePrompt
from tinyldm.pipelines.latent_check import LatentReport, check_latent, read_statistics, statistics_path
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Defaults, Request, defaults_of, request
from tinyldm.pipelines.walk import Callback, Picture, Progress, Walk, pictures
from tinyldm.runtime import Runtime
from tinyldm.typing import Array

# What a call says to a model that is not conditioned on what it makes its condition of.
OTHERWISE = {
    "text": "this model takes no prompts",
    "classes": "this model has no classes",
    "layout": "this model takes no layouts",
    "nothing": "this model wants a condition: a prompt, a class or a context",
}


@dataclass(eq=False, repr=False)
class LatentDiffusion(EditingCalls):
    """Text encoder, UNet and autoencoder of a checkpoint, with its tokenizer and noise schedule.

    Arrays are `(N, C, H, W)`. `parts` has everything as plain data; the networks are attributes under the names of
    their folders, too: `text_encoder`, `unet`, `vae`, and what other families have (`text_encoder_2`, `class_embedder`,
    `spatial_rescaler`, `controlnet`), None where there is none.

    What all calls that make pictures take, beside what each says:

    - `steps`, `guidance_scale`, `sampler`: the model's `defaults` where they are not given; `sampler_options` are the
      sampler's own (`{"eta": 0.5}`) and fields of its published configuration.
    - `guidance_rescale` from 0 to 1 undoes the over-exposure of strong guidance.
    - `seed`: picture k has the noise of `torch.randn` for `seed + k`, so that it is the picture of a call with that
      seed. With `one_stream=True` all share the stream of `seed`, as diffusers' pictures do for one generator.
    - `prompt_syntax="webui"` reads weights, schedules, `AND` and more in prompts (docs/prompts.md); `clip_skip=2` takes
      the text encoder's layer before the last.
    - `rng`: what a seed means, `"torch"` (on a CPU), `"cuda"` (on an NVIDIA GPU) or `"numpy"` (`diffusion.streams`).
    - `batch_size`: how many are computed together; it changes time and memory, not the pictures.
    - `progress` wraps the calls of the UNet (`tqdm.tqdm`); `callback` is called after each step with a
      `diffusion.samplers.base.Step`, may return another latent, and may end the call by raising `tinyldm.Stopped`.

    In a `single_run` each network's weights are dropped once its part is done; another run would read them anew.
    Every call raises `InputError` before any work for an argument that can't be honoured.
    """

    parts: Parts
    single_run: bool = False

    # What it is made of --------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Where the checkpoint lies."""
        return self.parts.path

    @property
    def runtime(self) -> Runtime:
        """How it computes."""
        return self.parts.runtime

    @property
    def networks(self) -> Mapping[str, Any]:
        """The networks by the names of their folders."""
        return self.parts.networks

    @property
    def unet(self) -> Any:
        """The network that predicts the noise: `unet(z, t, context) -> epsilon`."""
        return self.parts.predictor

    @property
    def vae(self) -> Any:
        """The first stage: `vae.encode(pixels) -> mean, logvar` and `vae.decode(z) -> pixels`."""
        return self.parts.vae

    @property
    def text_encoder(self) -> Any:
        """The (first) text encoder, or None."""
        return self.networks.get("text_encoder")

    @property
    def text_encoder_2(self) -> Any:
        """The second text encoder of the XL models, or None."""
        return self.networks.get("text_encoder_2")

    @property
    def class_embedder(self) -> Any:
        """The table of classes of the class-conditional models, or None."""
        return self.networks.get("class_embedder")

    @property
    def spatial_rescaler(self) -> Any:
        """What brings a map of segments to the latent's size, or None."""
        return self.networks.get("spatial_rescaler")

    @property
    def controlnet(self) -> Reader | None:
        """The (first) ControlNet or T2I-Adapter that the model was loaded with, or None."""
        return self.networks.get("controlnet")

    @property
    def controlnets(self) -> list[Reader]:
        """All ControlNets and T2I-Adapters that the model was loaded with."""
        return [network for name, network in self.networks.items() if name.startswith("controlnet")]

    @property
    def tokenizer(self) -> Any:
        """The (first) text encoder's tokenizer, or None."""
        return self.parts.tokenizers.get("tokenizer")

    @property
    def tokenizer_2(self) -> Any:
        """The second text encoder's tokenizer, or None."""
        return self.parts.tokenizers.get("tokenizer_2")

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The published noise schedule."""
        return self.parts.scheduler_config

    @property
    def notes(self) -> tuple[str, ...]:
        """What was passed over or assumed when the checkpoint was read."""
        return self.parts.notes

    @property
    def loras(self) -> tuple[AppliedLora, ...]:
        """The LoRAs that it was loaded with."""
        return self.parts.loras

    @property
    def defaults(self) -> Defaults:
        """What a run takes where nothing is said: few steps and no guidance for the models distilled to that."""
        return defaults_of(self.scheduler_config)

    def replaced(self, **changes: Any) -> LatentDiffusion:
        """This model with other parts: networks by their names, or fields of `Parts`."""
        return LatentDiffusion(self.parts.replaced(**changes), self.single_run)

    # Making pictures -----------------------------------------------------------------------------------------------

    def pictures(self, wanted: Request, how: Walk | None = None) -> Iterator[Picture]:
        """The pictures of a request, each as soon as it is finished."""
        return pictures(self.parts, wanted, how or Walk(single_run=self.single_run))

    def text_to_image(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        sampler: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images: int = 1,
        progress: Progress = iter,
        **more: Any,
    ) -> list[Image.Image]:
        """Pictures for a prompt, or for each of several: 8-bit RGB, `num_images` for the first prompt, then the next.

        `height` and `width` in pixels, by default those that the model was trained for; `guidance_scale` above 1 draws
        away from `negative_prompt`. `more`: `sampler_options`, `guidance_rescale`, `one_stream`, `prompt_syntax`,
        `clip_skip`, `batch_size`, `callback`, as the class says.
        """
        settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
        settings |= {"num_images": num_images, "seed": seed, "height": height, "width": width}
        return self._made("text", prompt, negative_prompt, progress=progress, **settings, **more)

    def image_to_image(
        self,
        prompt: str | Sequence[str],
        image: Image.Image | Array,
        negative_prompt: str | Sequence[str] = "",
        strength: float = 0.8,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        sampler: str | None = None,
        num_images: int = 1,
        progress: Progress = iter,
        **more: Any,
    ) -> list[Image.Image]:
        """Pictures for a prompt that begin from a picture, or from its latent `(1, C, h, w)`, instead of pure noise.

        `strength` in (0, 1]: the part of the steps that is taken, from little change to none of the picture kept.
        `more` as in `text_to_image`.
        """
        settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
        settings |= {"num_images": num_images, "seed": seed, "image": image, "strength": strength}
        return self._made("text", prompt, negative_prompt, progress=progress, **settings, **more)

    def class_to_image(
        self,
        labels: Sequence[int],
        steps: int = 50,
        guidance_scale: float = 3.0,
        seed: int = 0,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        progress: Progress = iter,
        **more: Any,
    ) -> list[Image.Image]:
        """A picture of each class label, by the models conditioned on classes; `more` as in `text_to_image`."""
        settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
        settings |= {"seed": seed, "height": height, "width": width}
        return self._made("classes", [str(label) for label in labels], progress=progress, **settings, **more)

    def unconditional(
        self,
        count: int = 1,
        steps: int = 50,
        seed: int = 0,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        progress: Progress = iter,
        **more: Any,
    ) -> list[Image.Image]:
        """Pictures by the models that are conditioned on nothing; `more` as in `text_to_image`."""
        settings: dict[str, Any] = {"steps": steps, "guidance_scale": 1.0, "sampler": sampler}
        settings |= {"num_images": count, "seed": seed, "height": height, "width": width}
        return self._made("nothing", None, progress=progress, **settings, **more)

    def grid(
        self,
        prompt: str | None = None,
        *,
        rows: Mapping[str, Sequence[Any]] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        progress: Progress = iter,
        **settings: Any,
    ) -> Image.Image:
        """One picture of many, with labels, over a setting down the rows and another along the columns.

        Each is given with its values: `rows={"steps": [5, 25]}, columns={"seed": [1, 2, 3]}`. `settings` are those that
        all pictures have, as in `text_to_image`; what is the same computation is not computed twice.
        """
        from tinyldm.pipelines.grids import make_grid

        how = Walk(progress=progress, single_run=self.single_run)
        return make_grid(self.parts, rows, columns, how, prompt=prompt, **settings)

    def from_conditions(
        self,
        context: Array | None = None,
        *,
        concat: Array | None = None,
        negative_context: Array | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
        seed: int = 0,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        progress: Progress = iter,
        one_stream: bool = False,
        **conditions: Array,
    ) -> list[Image.Image]:
        """Pictures from the arrays that condition a model, of any kind: what the other calls make for themselves.

        `context` `(N, L, D)` is what a text encoder says, or whatever else the model attends to. `concat`
        `(N, C, h, w)` is what stands behind the latent along the channels: mask and masked latent, depth, a smaller
        picture, a map of segments that `spatial_rescaler` has brought to size. `conditions` are the UNet's others:
        `class_labels` (of the ×4 upscaler its noise level), `guidance`, `text_embeds`, `time_ids`. Arrays with one row
        serve all pictures. With `negative_context` and a `guidance_scale` above 1 the pictures are drawn away from it.
        `size` is that of the latent, by default that of `concat`, or else the model's own.

        Raises `InputError` before any work where an array is missing or does not fit.
        """
        channels, factor = self.vae.latent_channels, self.vae.config.factor
        given, count = given_conditions(
            self.unet, channels, context, negative_context, concat, guidance_scale, conditions
        )
        height, width = (None, None) if size is None else (int(side) * factor for side in size)
        settings: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
        settings |= {"num_images": count, "seed": seed, "height": height, "width": width, "conditions": given}
        return self._made("arrays", None, progress=progress, one_stream=one_stream, **settings)

    def controlled(
        self,
        image: Image.Image | Array,
        scale: float = 1.0,
        controlnet: Reader | int | None = None,
        *,
        start: float = 0.0,
        end: float = 1.0,
        said: Mapping[str, Any] | None = None,
    ) -> LatentDiffusion:
        """This model, guided by a picture through its ControlNet or T2I-Adapter; its other calls are then as always.

        ```python
        model = tinyldm.load("stable-diffusion-v1-5", controlnet="sd-controlnet-canny")
        model.controlled(edges).text_to_image("a bird", seed=0)[0].save("bird.png")
        ```

        `image` is what the network reads (white edges on black, a depth map, …; `tinyldm.canny` draws edges): a
        picture, or `(1, 3, H, W)` in [0, 1]; pictures are made in its size unless the call says another, which must
        then be the same. `scale` is how strongly it guides, from 0, not at all, and `start` and `end` from which part
        of a run to which, as in diffusers' `control_guidance_start` and `control_guidance_end`. `controlnet` is one of
        those that the model was loaded with, by its number, or another; the first unless given. Controls add up:
        `model.controlled(edges, 0.5).controlled(depth, 0.5, 1)`. `said` goes into the settings of the pictures' files.

        Raises `InputError` for a picture that does not fit, and where the model has no such ControlNet.
        """
        own = self.controlnets
        if controlnet is None or isinstance(controlnet, int):
            number = controlnet or 0
            if not 0 <= number < len(own):
                which = f" of the number {number}; it has {len(own)}" if own else ""
                raise InputError(f"{self.path}: has no ControlNet{which}; load it with one: load(…, controlnet=PATH)")
            controlnet = own[number]
        check_fits(controlnet, self.unet, self.path)
        control = Control.of(image, scale, controlnet, start, end, said or {})
        return self.replaced(controls=(*self.parts.controls, control))

    def prompted_by(
        self, image: Image.Image, scale: float = 1.0, adapter: int = 0, *, said: Mapping[str, Any] | None = None
    ) -> LatentDiffusion:
        """This model, prompted by a picture too, through its IP-Adapter; its other calls are then as always.

        ```python
        model = tinyldm.load("stable-diffusion-v1-5", ip_adapter="IP-Adapter/models/ip-adapter_sd15.safetensors")
        model.prompted_by(photo, 0.6).text_to_image("in a garden", seed=0)[0].save("garden.png")
        ```

        `image` is a picture of any size: the square in its middle is read. `scale` is how strongly it counts beside the
        text, from 0, not at all; 1, where they count alike, leaves little to the text. `adapter` is the number of one
        of several that the model was loaded with. Pictures add up. `said` goes into the settings of the pictures'
        files.

        Raises `InputError` where the model has no such IP-Adapter.
        """
        own = [network for name, network in self.networks.items() if name.startswith("ip_adapter")]
        if not 0 <= adapter < len(own):
            which = f" of the number {adapter}; it has {len(own)}" if own else ""
            raise InputError(f"{self.path}: has no IP-Adapter{which}; load it with one: load(…, ip_adapter=FILE)")
        prompt = ImagePrompt.of(image, scale, own[adapter], self.networks["image_encoder"], said or {})
        return self.replaced(image_prompts=(*self.parts.image_prompts, prompt))

    def tiled(self, tile: int = TILE) -> LatentDiffusion:
        """This model, its autoencoder computing `tile` rows of pixels at a time: the same pictures in less memory.

        Raises `InputError` for a tile that is no positive multiple of the autoencoder's factor.
        """
        return self.replaced(vae=tiled(self.vae, tile))

    def scale_loras(self, scale: float, index: int | None = None) -> None:
        """Change how strongly LoRAs are applied, from the next call on: all of `loras`, or the one at an index.

        0 is the checkpoint itself, to the last bit. The layers that change are read and merged anew when they are next
        used, which takes about as long as it did the first time; a step of the sampler takes no longer than without a
        LoRA. Raises `InputError` for a scale that is no finite number, and for an index that there is not.
        """
        if not np.isfinite(scale):
            raise InputError(f"scale must be a finite number, not {scale}")
        if not self.loras or (index is not None and not 0 <= index < len(self.loras)):
            raise InputError(f"{self.path}: has {len(self.loras)} LoRAs, and no number {index or 0}")
        for lora in self.loras if index is None else [self.loras[index]]:
            lora.strength.value = float(scale)
            for component, modules in lora.modules.items():
                weights = self.networks[component].weights
                for module in modules:
                    weights.at(module).drop()
                    weights.at(module.rpartition(".")[0]).forget()  # what was prepared from several of its layers

    def upscale(
        self,
        image: Image.Image,
        prompt: str | None = None,
        negative_prompt: str = "",
        scale: float | None = None,
        *,
        progress: Progress = iter,
        callback: Callback | None = None,
        **more: Any,
    ) -> Image.Image:
        """A larger picture, by a model that is trained for it, or by any other one in tiles that it changes a little.

        `more` are fields of `pipelines.upscale.Upscaling`: of any other model `strength` (0.3), `tile` and `overlap` in
        pixels; of the ×4 upscaler `noise_level` (20); and `seed`, `rng`, `steps`, `guidance_scale`, `sampler`,
        `sampler_options`, `prompt_syntax`, `clip_skip`. `scale` is by default 2, or what the model was trained for.
        """
        from tinyldm.pipelines.upscale import Upscaling, upscale

        wanted = Upscaling(image, prompt, negative_prompt, scale, **more)
        return upscale(self.parts, wanted, Walk(progress=progress, callback=callback, single_run=self.single_run))

    # Pictures and latents ------------------------------------------------------------------------------------------

    def encode(self, image: Image.Image | Array, seed: int | None = None) -> Array:
        """A picture, or pixels `(N, 3, H, W)` in [-1, 1], as the latent that the diffusion works on: `(N, C, h, w)`.

        That is the mean of the posterior times the scaling factor; with a `seed`, a draw from the posterior.
        """
        return self.parts.encode(image, None if seed is None else TorchGenerator(seed))

    def decode(self, z: Array) -> list[Image.Image]:
        """Pictures of the latents that the diffusion works on: `(N, C, h, w) -> N` 8-bit RGB pictures."""
        return self.parts.decode(z)

    def check_latent(self, z: Array) -> LatentReport:
        """Whether latents `(N, C, h, w)`, as the diffusion hands them over, are what the decoder takes; and what to do.

        Against the statistics stored with the checkpoint (docs/book/question-3.md). Where it has none, shape,
        finiteness and scale are checked, and the report says so; `tinyldm check-latent --fit FOLDER` makes them.
        """
        return check_latent(z, self.vae, read_statistics(statistics_path(self.path)))

    def _made(
        self,
        takes: str,
        prompt: str | None | Sequence[str | None],
        negative_prompt: str | Sequence[str] = "",
        **settings: Any,
    ) -> list[Image.Image]:
        """The pictures of a request that is made from these arguments, by a model that `takes` what it is made of."""
        conditioner = self.parts.conditioner
        if takes not in ("arrays", conditioner.takes):
            reason = getattr(conditioner, "reason", OTHERWISE[takes]) if takes == "text" else OTHERWISE[takes]
            raise InputError(f"{self.path}: {reason}")
        how = {name: settings.pop(name) for name in ("progress", "callback", "batch_size") if name in settings}
        wanted = request(prompt, negative_prompt, **settings)
        return [picture.image for picture in pictures(self.parts, wanted, Walk(single_run=self.single_run, **how))]
