"""Whatever fields come, the answer is a picture or one sentence: never a fault of the server."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import WITHOUT

requests = pytest.importorskip("requests", reason=WITHOUT)
pytestmark = pytest.mark.extra
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGM8IRfFgA0wYRUdtBIA/vYBUA+HjJUAAAAASUVORK5CYII="
NAMES = {
    "/sdapi/v1/txt2img": """prompt negative_prompt steps cfg_scale width height seed sampler_name sampler_index
        scheduler eta s_churn s_tmin s_tmax s_noise batch_size n_iter styles override_settings tiling script_args""",
    "/sdapi/v1/img2img": """prompt init_images mask mask_blur inpainting_fill inpaint_full_res inpaint_full_res_padding
        inpainting_mask_invert resize_mode denoising_strength image_cfg_scale width height include_init_images""",
    "/v1/images/generations": """prompt model n size quality background output_format output_compression stream style
        response_format seed steps""",
    "/page/pictures": """prompt steps guidance_scale guidance_rescale sampler sampler_options width height num_images
        seed image mask mask_blur strength image_guidance_scale""",
    "/sdapi/v1/options": "sd_model_checkpoint sd_vae x",
}
NUMBERS = (0, 1, 2, 3, -1, 0.5, 8, 16, 32, 1e300, -7.5, True)
TEXTS = (
    "",
    "a",
    "16",
    "euler",
    "DDIM",
    "karras",
    "8x8",
    "auto",
    "png",
    "eta=1",
    "eta={}",
    "x" * 300,
    "\ud800",
    "\0",
    PNG,
)
OTHERS = (None, [PNG], ["x"], [], {}, [[]], {"a": 1})
likely = st.sampled_from((*NUMBERS, *TEXTS, *OTHERS))
# Whole numbers are small, so that pictures are, or too large for any memory.
values = likely | st.integers(-3, 12) | st.integers(2**40) | st.floats() | st.text(max_size=20)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NAMES)
def test_any_fields(serving, path):
    session = requests.Session()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(NAMES[path].split()), values, max_size=5))
    def ask(fields):
        few = {} if "options" in path else {"steps": 1, "prompt": "a"}
        few |= {"init_images": [PNG]} if path.endswith("img2img") else {}
        answer = session.post(serving.url + path, data=json.dumps({**few, **fields}).encode(), timeout=30)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
        assert "Broken" not in answer.text
        assert "went wrong inside" not in answer.text
        assert "Traceback" not in answer.text

    ask()
