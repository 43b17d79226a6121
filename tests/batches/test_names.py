"""Names of the files of a batch: by a template, unlike each other, and nowhere but in the folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyldm.batches.names import MOST_BYTES, named
from tinyldm.batches.rows import Job, jobs_of
from tinyldm.errors import InputError

DEFAULTS = {"steps": 25, "guidance_scale": 7.5, "sampler": "ddim"}


def names(jobs: list[Job], template: str | None = None) -> list[str]:
    return [job.name for job in named(jobs, template, DEFAULTS)]


def jobs(*rows: dict, **settings: object) -> list[Job]:
    return jobs_of([(f"row {k}", row) for k, row in enumerate(rows, 1)], settings, Path())


def test_the_usual_name() -> None:
    assert names(jobs({"prompt": "red apple"}, {"prompt": "fox"}, seed="0:2")) == [
        "0001-red-apple-0.png",
        "0001-red-apple-1.png",
        "0002-fox-0.png",
        "0002-fox-1.png",
    ]


def test_the_usual_name_says_in_what_the_pictures_of_a_row_differ() -> None:
    found = names(jobs({"prompt": "fox"}, sampler="ddim,euler", steps="5,9"))
    assert found == [f"0001-fox-0-{s}-{sampler}.png" for s in (5, 9) for sampler in ("ddim", "euler")] or found == [
        f"0001-fox-0-{s}-{sampler}.png" for sampler in ("ddim", "euler") for s in (5, 9)
    ]


def test_a_template() -> None:
    row = {"prompt": "a/b: ../c", "guidance_scale": 2.5, "sampler": "dpm++_2m"}
    assert names(jobs(row), "{sampler}/{prompt}-{guidance_scale}-{steps:03d}-{picture}-{{x}}.png") == [
        "dpm-_2m/a-b-c-2.5-025-1-{x}.png"
    ]
    assert names(jobs({"seed": 1}), "{prompt}.png") == ["default.png"]
    assert names(jobs({"prompt": "!!!"}), "{prompt}.png") == ["none.png"]


BAD = {
    "unknown field": ("{promt}.png", "unknown field {promt}; did you mean {prompt}?"),
    "no field": ("{}.png", "unknown field {}"),
    "attribute": ("{prompt.__class__}.png", "unknown field {prompt.__class__}"),
    "item": ("{prompt[0]}.png", "unknown field {prompt[0]}"),
    "conversion": ("{prompt!r}.png", "a field and its format only"),
    "nested": ("{row:{seed}}.png", "a field and its format only"),
    "format": ("{prompt:04d}.png", "row 1: Unknown format code"),
    "wide": ("{row:999999999999d}.png", "row 1: "),
    "open brace": ("{row.png", "--name {row.png: "),
    "outside": ("../{row}.png", "is no name of a file inside the folder"),
    "outside in the middle": ("a/../../{row}.png", "is no name of a file inside the folder"),
    "absolute": ("/tmp/{row}.png", "is no name of a file inside the folder"),
    "backslash": ("..\\{row}.png", "is no name of a file inside the folder"),
    "drive": ("C:{row}.png", "is no name of a file inside the folder"),
    "no name": ("a/", "is no name of a file inside the folder"),
    "suffix": ("{row}.jpg", "must end in .png"),
    "long": ("x" * 300 + "{row}.png", f"longer than {MOST_BYTES} bytes"),
    "collision": ("{sampler}.png", "row 1 and row 2 would both be ddim.png; add {prompt}"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_template_that_will_not_do(case: str) -> None:
    template, message = BAD[case]
    with pytest.raises(InputError) as raised:
        names(jobs({"prompt": "fox"}, {"prompt": "owl"}), template)
    assert message in str(raised.value)


def test_a_collision_is_seen_whatever_the_file_system_thinks_of_capitals_and_accents() -> None:
    for pair in (("Fox", "fox"), ("\u00e9", "e\u0301")):
        with pytest.raises(InputError, match="would both be"):
            names(jobs(*({"prompt": prompt} for prompt in pair)), "{prompt}.png")


@given(st.lists(st.text(), min_size=1, max_size=4), st.sampled_from([None, "{row}-{prompt}.png", "{prompt}/{row}.png"]))
def test_no_prompt_leads_out_of_the_folder(prompts: list[str], template: str | None) -> None:
    for name in names([Job(k, k, {"prompt": prompt, "seed": 0}) for k, prompt in enumerate(prompts)], template):
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert all(0 < len(part.encode()) <= MOST_BYTES for part in path.parts)
        assert name.isprintable()
