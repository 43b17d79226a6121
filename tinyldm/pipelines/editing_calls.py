"""What one does with a picture that there is: the calls of `LatentDiffusion` that paint in it, and edit it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from tinyldm.pipelines.interpolation import between
from tinyldm.pipelines.layout import Box
from tinyldm.pipelines.masks import Margins, masked, outpainted
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.walk import Walk, pictures
from tinyldm.typing import Array


class EditingCalls:
    """The calls; `LatentDiffusion` has what they are made with."""

    parts: Parts
    single_run: bool

    def _made(
        self,
        takes: str,
        prompt: str | None | Sequence[str | None],
        negative_prompt: str | Sequence[str] = "",
        **settings: Any,
    ) -> list[Image.Image]:
        raise NotImplementedError

    def inpaint(
        self,
        prompt: str | None | Sequence[str | None],
        image: Image.Image,
        mask: Image.Image | Array | None = None,
        negative_prompt: str | Sequence[str] = "",
        strength: float | None = None,
        mask_blur: float = 0.0,
        outpaint: Margins | None = None,
        **more: Any,
    ) -> list[Image.Image]:
        """Pictures like `image` but where `mask` is white, which is painted anew for the prompt; any model can.

        ```python
        model.inpaint("red apple", picture, mask)
        model.inpaint("red apple", picture, outpaint=Margins(left=32, right=32))
        ```

        `mask` is a picture as large as `image`, or an array `(H, W)` from 0 to 1; without one, what is transparent in
        `image` is painted. Where it is black, the pixels are exactly those of `image`, but for `mask_blur` pixels at
        its edge. `outpaint` extends the picture first. `strength` in (0, 1] keeps something of what was there; without
        it, nothing. A picture of any size will do: it is not scaled.

        `prompt` is what the model takes: a text, the number of a class as a text, or None. `more`: `steps`,
        `guidance_scale`, `seed`, `sampler`, `num_images` and the others of `text_to_image`.
        """
        area = None
        if mask is not None or outpaint is None or image.has_transparency_data:
            image, area = masked(image, mask)
        if outpaint is not None:
            image, area = outpainted(image, outpaint, area)
        takes = self.parts.conditioner.takes
        settings: dict[str, Any] = {"image": image, "mask": area, "mask_blur": mask_blur, "strength": strength}
        return self._made("text" if takes == "arrays" else takes, prompt, negative_prompt, **settings, **more)

    def edit(
        self,
        prompt: str | Sequence[str],
        image: Image.Image,
        negative_prompt: str | Sequence[str] = "",
        image_guidance_scale: float | None = None,
        mask: Image.Image | Array | None = None,
        **more: Any,
    ) -> list[Image.Image]:
        """`image` changed as an instruction says ("make it green"), by a model that was trained for it.

        `image_guidance_scale` from 1 is the pull of the picture (1.5, as published), as `guidance_scale` is that of the
        instruction. With a `mask` only what is white in it changes. `more` as in `text_to_image`.
        """
        settings = {"image": image, "image_guidance_scale": image_guidance_scale, "mask": mask}
        return self._made("text", prompt, negative_prompt, **settings, **more)

    def layout_to_image(self, layouts: Sequence[Sequence[Box]], **more: Any) -> list[Image.Image]:
        """A picture of each layout, by the models that take boxes: what stands where.

        ```python
        model.layout_to_image([[Box(12, 0.1, 0.2, 0.6, 0.9), Box(3, 0.5, 0.5, 1.0, 1.0)]])
        ```

        A `Box` is the number of a class and left, top, right, bottom in parts of the picture. `more` as in
        `text_to_image`.
        """
        return self._made("layout", [json.dumps([list(box) for box in boxes]) for boxes in layouts], **more)

    def interpolate(
        self,
        prompts: str | Sequence[str | None],
        frames: int = 12,
        seed: int = 0,
        to_seed: int | None = None,
        **more: Any,
    ) -> list[Image.Image]:
        """The way from the picture of the first prompt and `seed` to that of the last prompt and `to_seed`.

        ```python
        model.interpolate(["red apple", "lemon"], frames=12)
        model.interpolate("red apple", seed=1, to_seed=2)
        ```

        `more` as in `text_to_image`. `pipelines.animation.write_animation` writes the pictures as one file.
        """
        how = {name: more.pop(name) for name in ("progress", "callback", "batch_size") if name in more}
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        wanted = between(self.parts, given, frames, to_seed, seed=seed, **more)
        return [picture.image for picture in pictures(self.parts, wanted, Walk(single_run=self.single_run, **how))]
