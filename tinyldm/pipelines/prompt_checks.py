"""What a model can't honour of its prompts' syntax, before anything is read or computed."""

from __future__ import annotations

from collections.abc import Sequence

from tinyldm.diffusion.samplers import Sampler
from tinyldm.errors import InputError
from tinyldm.pipelines.conditioners import Conditioner, Prompts, TextConditioner
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.prompt_loras import check_tags
from tinyldm.text.chunks import chunked
from tinyldm.text.prompt_syntax import Prompt, read_prompt, read_weights


def check_syntax(parts: Parts, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, steps: int) -> None:
    """Raise `InputError` for prompts that a model can't honour; schedules count `steps` (`length_of_run`)."""
    texts = [prompt or "" for prompt in prompts]
    check_tags(texts, negatives, parts.loras)
    for text in dict.fromkeys(texts):
        check_prompt(parts, guidance_scale, read_prompt(text, steps))
    for text in dict.fromkeys(negatives):
        check_prompt(parts, guidance_scale, read_prompt(text, steps, negative=True))


def check_prompt(parts: Parts, guidance_scale: float, prompt: Prompt) -> None:
    """Raise `InputError` for a prompt whose syntax a model can't honour."""
    if prompt.plain:
        return
    conditioner, text = parts.conditioner, prompt.written
    if not isinstance(conditioner, TextConditioner) or not conditioner.readers():
        raise InputError(
            f"{parts.path}: prompt {text!r} has weights or other syntax, which wants CLIP's text encoder; "
            "prompt_syntax 'plain' (--prompt-syntax plain) reads it as words"
        )
    whole = [joined.weight for joined in prompt.joined] == [1.0]
    if not whole and not conditioner.guided(guidance_scale):
        why = "a guidance scale above 1" if conditioner.guided(2.0) else "guidance, which this model was distilled from"
        raise InputError(f"prompt {text!r}: AND, and the weight of a whole prompt (`:0.5` at its end), want {why}")
    for reader in conditioner.readers():
        for part in dict.fromkeys(part for joined in prompt.joined for _, part in joined.stretches):
            chunked(read_weights(part), reader.tokenizer)


def check_clip_skip(conditioner: Conditioner, clip_skip: int) -> None:
    """Raise `InputError` for a layer that a text encoder does not have, or that a model does not read."""
    readers = conditioner.readers()
    if not readers:
        raise InputError(f"{conditioner.path}: clip_skip wants CLIP's text encoder; this model has none")
    if readers[0].layer != -1 and clip_skip != -readers[0].layer:
        raise InputError(
            f"{conditioner.path}: always reads layer 2 from the last; clip_skip {clip_skip} is none of its own"
        )
    layers = readers[0].encoder.config.num_hidden_layers
    if clip_skip > layers:
        raise InputError(f"{conditioner.path}: its text encoder has {layers} layers; clip_skip {clip_skip} is too many")


def length_of_run(sampler: Sampler, steps: int) -> int:
    """The steps that schedules count: those of the sampler, twice as many for samplers of two calls a step.

    So does the original, whose samplers take a call less or more; of others these are all the calls.
    """
    last_but_one = max(len(sampler) - 2, 0)
    counted = steps * (sampler.calls(last_but_one) - sampler.calls(last_but_one + 1))
    return counted if abs(sampler.calls() - counted) <= 1 else sampler.calls()
