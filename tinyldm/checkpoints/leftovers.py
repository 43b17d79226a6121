"""Tensors that no component reads: those that published files are known to carry, and those that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.recognised import Recognised

# Tensors that published files are known to carry beside the model's own, which play no part in making pictures.
KNOWN_EXTRAS = """
betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod log_one_minus_alphas_cumprod
sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance posterior_log_variance_clipped
posterior_mean_coef1 posterior_mean_coef2 lvlb_weights logvar scale_factor denoiser.sigmas
model_ema.* ema.* loss.* first_stage_model.loss.* first_stage_model.model_ema.* first_stage_model.quantize.embedding_*
*position_ids *logit_scale low_scale_model.* depth_model.* embedding_manager.* optimizer_states.* iteration.* *attn_mask
cond_stage_model.transformer.to_logits.* cond_stage_model.transformer.vision_model.* visual.* vision_model.*
*visual_projection.weight global_step v_pred ztsnr difference lora_controlnet
""".split()
OPENCLIP_LAST = r"cond_stage_model\.model\.(text_projection(\.weight)?|transformer\.resblocks\.{last}\..*)"


def sort_leftovers(found: Recognised, source: TensorSource, taken: Collection[str] = ()) -> None:
    """Sort what no component reads into known extras and unknown tensors; `taken` are names that belong to one anyway.

    `source` may itself be a view with other names than the file's.
    """
    read = {c.source.original_name(name) for c in found.components.values() for name in c.source.names}
    for name in sorted(n for n in source.names if n not in taken and source.original_name(n) not in read):
        known = any(fnmatchcase(name, pattern) for pattern in KNOWN_EXTRAS) or is_last_openclip(name, found)
        (found.extras if known else found.unknown).append(name)
    if found.unknown:
        shown = ", ".join(quoted(name) for name in found.unknown[:3])
        found.notes.append(f"{len(found.unknown)} tensors are not known and not used: {shown}")


def is_last_openclip(name: str, found: Recognised) -> bool:
    """Whether a tensor is of the last OpenCLIP layer or its projection, which Stable Diffusion 2 leaves out."""
    text = found.components.get("text_encoder")
    last = text.config.get("num_hidden_layers", -1) if text else -1
    return re.fullmatch(OPENCLIP_LAST.format(last=last), name) is not None
