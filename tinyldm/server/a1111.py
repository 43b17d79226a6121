"""AUTOMATIC1111's API, as its clients use it: `/sdapi/v1/…`.

What a field means, and which value it has where a client says nothing, follows stable-diffusion-webui's
`modules/processing.py` and `modules/api/models.py`, with one difference: steps, scale, sampler and size that are absent
are the model's own. A field that asks for something that is not done here is an error unless it has its default.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinyldm.diffusion.samplers import list_samplers
from tinyldm.diffusion.samplers.registry import find_sampler
from tinyldm.diffusion.spacing import SIGMA_SCHEDULES
from tinyldm.pipelines.infotext import STREAMS
from tinyldm.pipelines.masks import as_mask, filled
from tinyldm.server.connection import Endpoints, awaited
from tinyldm.server.fields import Fields, read_json
from tinyldm.server.jobs import Job, Progress, Queue
from tinyldm.server.masking import Closer, mask_of
from tinyldm.server.refusals import NotThere, Refusal
from tinyldm.server.studio import MOST_PICTURES, Studio
from tinyldm.server.uploads import from_base64, resized, rgb, to_base64

SOURCE = "a1111"
CLIP_SKIP, RNG = "CLIP_stop_at_last_layers", "randn_source"
USUAL_SCALE = 7.0  # of guidance, where a client says none
# The samplers there that take `eta`; others are sent it as well, and leave it alone.
TAKE_ETA = {"ddim", "euler_a", "dpm2_a", "dpm++_2s_a", "dpm++_sde", "dpm++_2m_sde", "dpm++_3m_sde", "dpm++_2s_sde"}
RESIZE = {0: "stretch", 1: "crop", 2: "pad"}
USUAL_SCHEDULERS = ("Automatic", "automatic", "Normal", "normal")
# The values with which fields change nothing; where they have others, they ask for what is not done here.
ONLY: Mapping[tuple[str, ...], tuple[Any, ...]] = {
    ("script_args", "alwayson_scripts", "infotext"): (),
    ("styles",): ("",),
    ("refiner_checkpoint", "script_name"): ("None",),
    ("restore_faces", "tiling", "enable_hr"): (False,),
    ("subseed_strength", "s_min_uncond", "firstphase_width", "firstphase_height"): (0,),
    ("seed_resize_from_h", "seed_resize_from_w"): (0, -1),
    ("initial_noise_multiplier",): (1,),
}
# Fields that matter only together with one of the above, or that change no picture.
IGNORED = """
subseed do_not_save_samples do_not_save_grid disable_extra_networks refiner_switch_at comments force_task_id
override_settings_restore_afterwards hr_scale hr_upscaler hr_second_pass_steps hr_resize_x hr_resize_y
hr_checkpoint_name hr_sampler_name hr_scheduler hr_prompt hr_negative_prompt
""".split()
# Fields of a mask: without one they say nothing.
MASKING = """
mask_blur mask_blur_x mask_blur_y inpainting_fill inpaint_full_res inpaint_full_res_padding
inpainting_mask_invert
""".split()
# What there is none of here, under the addresses where clients look for it.
NONE_OF = ("upscalers", "loras", "embeddings", "hypernetworks", "sd-vae", "face-restorers", "prompt-styles")


def routes(studio: Studio, queue: Queue) -> list[Route]:
    """The addresses, under `/sdapi/v1`."""
    api = Api(studio, queue)
    posts = {"txt2img": api.txt2img, "img2img": api.img2img, "interrupt": api.interrupt, "options": api.set_options}
    gets = {"progress": api.progress, "options": api.options, "samplers": api.samplers, "schedulers": api.schedulers}
    gets |= {"sd-models": api.models, "scripts": api.scripts} | dict.fromkeys(NONE_OF, api.nothing)
    return [
        *(Route(f"/sdapi/v1/{name}", endpoint, methods=["POST"]) for name, endpoint in posts.items()),
        *(Route(f"/sdapi/v1/{name}", endpoint, methods=["GET"]) for name, endpoint in gets.items()),
    ]


class Api(Endpoints):
    """The endpoints."""

    async def txt2img(self, asked: Asked) -> Response:
        """Pictures of a prompt."""
        return await self.made(asked, begins=False)

    async def img2img(self, asked: Asked) -> Response:
        """Pictures that begin from another."""
        return await self.made(asked, begins=True)

    async def made(self, asked: Asked, *, begins: bool) -> Response:
        """Pictures in base64; an interrupted request has those that were finished."""
        fields = read_json(await asked.body())
        job = await run_in_threadpool(self.job, fields, begins)
        await awaited(asked, self.queue, job)
        send = fields.flag("send_images", True)
        shown = dict(fields.given)
        if not fields.flag("include_init_images"):
            shown |= {name: None for name in ("init_images", "mask") if name in shown}
        images = [to_base64(picture.png) for picture in job.pictures] if send else []
        return JSONResponse({"images": images, "parameters": shown, "info": json.dumps(self.info(job))})

    def job(self, fields: Fields, begins: bool) -> Job:
        """The job that the fields ask for. Raises `Refusal` and `InputError` for what can't be honoured."""
        fields.without_part(ONLY)
        fields.ignore(*IGNORED, "send_images", "include_init_images")
        settings: dict[str, Any] = self.overridden(fields.get("override_settings")) | {
            "prompt_syntax": "webui",
            "steps": fields.integer("steps"),
            "guidance_scale": fields.number("cfg_scale"),
        }
        if self.studio.parts.conditioner.takes == "nothing" and settings["guidance_scale"] == USUAL_SCALE:
            settings["guidance_scale"] = None  # which clients send to every model, and this one has no use for
        settings |= sampler_of(fields)
        size = fields.integer("width", 1), fields.integer("height", 1)
        if begins:
            begun = beginning(fields, self.studio.beside, size)
        else:
            begun = Beginning({"width": size[0], "height": size[1]})
            fields.ignore("denoising_strength")  # of a second pass that is not done
        settings |= begun.settings
        batch, rounds = fields.integer("batch_size", 1) or 1, fields.integer("n_iter", 1) or 1
        if batch * rounds > MOST_PICTURES:
            raise Refusal(f"batch_size: {batch * rounds} pictures are too many; take {MOST_PICTURES}", "batch_size")
        keep, wanted = fields.flag("save_images"), self.asked_for(fields, batch * rounds, settings)
        return Job(wanted, SOURCE, keep=keep, began_from="init_images" if begins else None, finish=begun.finish)

    def overridden(self, settings: Any) -> dict[str, Any]:
        """The settings of a request that may be overridden: CLIP's layer, and what a seed means.

        Raises `Refusal` for others.
        """
        if not isinstance(settings, dict | None):
            raise Refusal("override_settings must be an object", "override_settings")
        own = Fields(settings or {})
        self.check_settings({name: value for name, value in own.given.items() if name not in (CLIP_SKIP, RNG)})
        skip, source = own.integer(CLIP_SKIP, 1) or 1, own.choice(RNG, "CPU", STREAMS)
        return ({} if skip == 1 else {"clip_skip": skip}) | {"rng": STREAMS[source]}

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise `Refusal` for settings other than those that the server has."""
        own = self.settings()
        for name, value in settings.items():
            if name == "sd_model_checkpoint" and value not in (*self.names(), None, ""):
                raise NotThere(f"the model {value!r} is not here; this server has {self.studio.name!r}", name)
            if name not in own:
                raise Refusal(f"the setting {name!r} is not one of this server; it has {', '.join(own)}", name)
            if name != "sd_model_checkpoint" and value != own[name]:
                raise Refusal(f"the setting {name} is {own[name]!r} here, and can't be {value!r}", name)

    def settings(self) -> dict[str, Any]:
        """The options that clients read, which can't be changed."""
        return {
            "sd_model_checkpoint": self.studio.name,
            "sd_checkpoint_hash": "",
            "sd_vae": "Automatic",
            CLIP_SKIP: 1,
            "samples_format": "png",
            RNG: "CPU",
            "eta_noise_seed_delta": 0,
            "live_previews_enable": True,
        }

    def names(self) -> tuple[str, ...]:
        """What the model may be called: its name, with or without the ending of its file."""
        return self.studio.name, self.studio.model.path.stem

    def info(self, job: Job) -> dict[str, Any]:
        """What `info` says of the pictures that were finished."""
        wanted, made = job.request, job.pictures
        indices = [picture.index for picture in made] or [0]
        each: dict[str, Sequence[Any]] = {"prompt": wanted.prompts, "negative_prompt": wanted.negative_prompts}
        each |= {"seed": wanted.seeds, "subseed": wanted.seeds}
        return {
            **{name: values[0] for name, values in each.items()},
            **{f"all_{name}s": [values[k] for k in indices] for name, values in each.items()},
            "subseed_strength": 0,
            "width": wanted.width,
            "height": wanted.height,
            "sampler_name": wanted.sampler,
            "cfg_scale": wanted.guidance_scale,
            "steps": wanted.steps,
            "batch_size": len(wanted.prompts),
            "restore_faces": False,
            "sd_model_name": self.studio.name,
            "sd_model_hash": None,
            "denoising_strength": wanted.strength,
            "extra_generation_params": {},
            "index_of_first_image": 0,
            "comments": "\n".join(job.notes),
            "infotexts": [picture.text for picture in made],
            "styles": [],
            "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
            "clip_skip": wanted.clip_skip or 1,
        }

    async def progress(self, asked: Asked) -> Response:
        """How far the job of this API is that is worked on, if one is."""
        job = self.working()
        waiting = sum(other.source == SOURCE for other in self.queue.waiting)
        how_far = Progress() if job is None else job.progress
        preview = next(iter(how_far.previews.values()), None)
        state = {
            "skipped": False,
            "interrupted": job is not None and job.stopping,
            "stopping_generation": False,
            "job": "" if job is None else job.id,
            "job_count": waiting + (job is not None),
            "job_timestamp": time.strftime("%Y%m%d%H%M%S") if job is not None else "0",
            "job_no": 0,
            "sampling_step": how_far.step,
            "sampling_steps": how_far.steps,
        }
        return JSONResponse(
            {
                "progress": how_far.part,
                "eta_relative": how_far.seconds or 0.0,
                "state": state,
                "current_image": to_base64(preview) if preview and not skips(asked) else None,
                "textinfo": None,
            }
        )

    def working(self) -> Job | None:
        """The job of this API that is worked on; those of others are theirs alone."""
        job = self.queue.working
        return job if job is not None and job.source == SOURCE else None

    async def interrupt(self, asked: Asked) -> Response:
        """End the job that is worked on; its client gets what was finished."""
        if (job := self.working()) is not None:
            self.queue.stop(job)
        return JSONResponse({})

    async def options(self, asked: Asked) -> Response:
        """The options."""
        return JSONResponse(self.settings())

    async def set_options(self, asked: Asked) -> Response:
        """Options that are what they are; others are refused."""
        self.check_settings(read_json(await asked.body()).given)
        return JSONResponse(None)

    async def samplers(self, asked: Asked) -> Response:
        """All samplers, which answer to their names on AUTOMATIC1111's pages, too."""
        return JSONResponse(
            [{"name": s.name, "aliases": list(s.aliases), "options": {"summary": s.summary}} for s in list_samplers()]
        )

    async def schedulers(self, asked: Asked) -> Response:
        """The schedules of noise levels."""
        shape = {"aliases": None, "default_rho": -1, "need_inner_model": False}
        return JSONResponse([{"name": name, "label": name, **shape} for name in ("automatic", *SIGMA_SCHEDULES)])

    async def models(self, asked: Asked) -> Response:
        """The model."""
        name = self.studio.name
        shape = {"hash": None, "sha256": None, "filename": name, "config": None}
        return JSONResponse([{"title": name, "model_name": self.studio.model.path.stem, **shape}])

    async def scripts(self, asked: Asked) -> Response:
        """There are none."""
        return JSONResponse({"txt2img": [], "img2img": []})

    async def nothing(self, asked: Asked) -> Response:
        """An empty list."""
        embeddings = asked.url.path.endswith("embeddings")
        return JSONResponse({"loaded": {}, "skipped": {}} if embeddings else [])


def skips(asked: Asked) -> bool:
    """Whether a client wants no preview."""
    return Fields(asked.query_params).flag("skip_current_image")


def sampler_of(fields: Fields) -> dict[str, Any]:
    """Sampler and options of a request: `sampler_name` goes before `sampler_index`, and a scheduler is added to it."""
    name, index = fields.text("sampler_name"), fields.text("sampler_index")
    name, scheduler = name or index, fields.text("scheduler", USUAL_SCHEDULERS[0])
    eta, noise, churn = fields.number("eta"), fields.number("s_noise"), fields.number("s_churn")
    low, high = fields.number("s_tmin"), fields.number("s_tmax")
    if not name and scheduler in USUAL_SCHEDULERS:
        return {}
    found = find_sampler(name if scheduler in USUAL_SCHEDULERS else f"{name or 'Euler'} {scheduler}")
    options: dict[str, Any] = {"eta": eta} if eta is not None and found in TAKE_ETA else {}
    options |= {"s_churn": churn, "s_tmin": low or 0.0} | ({"s_tmax": high} if high else {}) if churn else {}
    options |= {"s_noise": noise} if noise not in (None, 1) else {}
    return {"sampler": found, "sampler_options": options}


@dataclass(frozen=True)
class Beginning:
    """What `img2img` begins from, as settings of a request, and what is done with its pictures at the end."""

    settings: Mapping[str, Any]
    finish: Callable[[Image.Image], Image.Image] | None = None


def beginning(fields: Fields, beside: str, size: tuple[int | None, int | None]) -> Beginning:
    """The picture to begin from, in the size that is asked for, how strongly it is changed, and where."""
    given = fields.get("init_images")
    if not isinstance(given, list) or not given:
        raise Refusal("init_images must be a list of one picture in base64", "init_images")
    if len(given) > 1:
        raise Refusal(f"init_images has {len(given)} pictures; this server begins from one", "init_images")
    mode = fields.integer("resize_mode") or 0
    if mode not in RESIZE:
        raise Refusal(f"resize_mode must be 0 (stretch), 1 (crop) or 2 (fill), not {mode}", "resize_mode")
    image = rgb(from_base64(given[0], "init_images"), "init_images")
    pull, strength = fields.number("image_cfg_scale"), fields.number("denoising_strength", 0.75)
    # A model that edits by an instruction has no strength, but a scale for the picture.
    how = {"image_guidance_scale": pull} if beside == "image" else {"strength": strength}
    if fields.get("mask") is not None:
        return under_mask(fields, image, size, RESIZE[mode], how)
    fields.ignore(*MASKING)
    fitting = "none" if any(size) else "crop"
    return Beginning({"image": resized(image, *size, RESIZE[mode]), "resize": fitting, **how})


def under_mask(
    fields: Fields, image: Image.Image, size: tuple[int | None, int | None], how: str, settings: Mapping[str, Any]
) -> Beginning:
    """A picture that is painted anew where its mask is white: as a whole, or only the part about the mask."""
    mask = mask_of(from_base64(fields.get("mask"), "mask"))
    if fields.flag("inpainting_mask_invert"):
        mask = ImageOps.invert(mask)
    fields.only("mask_blur_x", 4)
    fields.only("mask_blur_y", 4)
    blur, fill = fields.number("mask_blur"), fields.integer("inpainting_fill") or 0
    blur = 4 if blur is None else blur
    if fill not in (0, 1):
        raise Refusal(f"inpainting_fill must be 0 (fill) or 1 (original), not {fill}", "inpainting_fill")
    closer, padding = fields.flag("inpaint_full_res", True), fields.integer("inpaint_full_res_padding", 0) or 0
    if fill == 0:
        image = filled(image, as_mask(mask, image))
    if not closer:
        image, mask = (resized(part, *size, how) for part in (image, mask))
        return Beginning({"image": image, "mask": mask, "mask_blur": blur, **settings})
    wanted = (size[0] or image.width, size[1] or image.height)
    part = Closer.of(image, mask, padding, wanted, blur)
    small, white = part.part(wanted)
    return Beginning({"image": small, "mask": white, "mask_blur": blur, **settings}, part.back)
