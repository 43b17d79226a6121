"""Rows: what a file says, what is refused, and the pictures that lists multiply out to."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.batches.columns import PICTURE, columns, values_of
from tinyldm.batches.making import TOGETHER, WINDOW, chunks, shared_by
from tinyldm.batches.rows import Job, jobs_of, read_rows
from tinyldm.errors import InputError
from tinyldm.pipelines.files import FROM_FILES
from tinyldm.pipelines.request import Request


def cells(path: Path, text: str) -> list[dict]:
    path.write_bytes(text.encode())
    return [dict(row) for _, row in read_rows(path)]


def test_a_prompt_a_line(tmp_path: Path) -> None:
    assert cells(tmp_path / "a.txt", "\ufefffox, red\n\n  owl \r\nÄpfel") == [
        {"prompt": "fox, red"},
        {"prompt": "owl"},
        {"prompt": "Äpfel"},
    ]


def test_a_table(tmp_path: Path) -> None:
    found = cells(tmp_path / "a.csv", 'prompt,Negative Prompt,steps\n"fox, red",,5\n\nowl,dark\n')
    assert found == [
        {"prompt": "fox, red", "negative_prompt": "", "steps": "5"},
        {"prompt": "owl", "negative_prompt": "dark"},
    ]
    assert cells(tmp_path / "a.tsv", "prompt\tseed\nfox, red\t3\n") == [{"prompt": "fox, red", "seed": "3"}]


def test_objects(tmp_path: Path) -> None:
    assert cells(tmp_path / "a.jsonl", '{"prompt": "fox", "seed": [1, 2]}\n\n{"steps": 3}\n') == [
        {"prompt": "fox", "seed": [1, 2]},
        {"steps": 3},
    ]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("fox\nowl\n"))
    assert [row["prompt"] for _, row in read_rows("-")] == ["fox", "owl"]


BAD = {
    "heading": ("a.csv", "promt\nfox\n", "line 1: unknown column 'promt'; did you mean prompt?"),
    "strange heading": ("a.csv", "zzz\nfox\n", "known are prompt, "),
    "twice": ("a.csv", "prompt,Prompt\na,b\n", "the column prompt stands there twice"),
    "too many cells": ("a.csv", "prompt\nfox, red\n", "line 2: 2 cells, and 1 headings; a comma wants quotes"),
    "open quote": ("a.csv", 'prompt\n"fox\n', "unexpected end of data"),
    "no number": ("a.csv", "prompt,steps\nfox,ten\n", "line 2: steps: wanted a whole number, not 'ten'"),
    "half a number": ("a.csv", "prompt,steps\nfox,2.5\n", "wanted a whole number, not '2.5'"),
    "no range": ("a.csv", "prompt,seed\nfox,8:0\n", "wanted a range such as 0:8"),
    "not finite": ("a.csv", "prompt,guidance_scale\nfox,nan\n", "wanted a finite number, not nan"),
    "no picture": ("a.csv", "prompt,image\nfox,nowhere.png\n", "image: there is no file"),
    "no json": ("a.jsonl", "{\n", "line 1: is no JSON"),
    "no object": ("a.jsonl", '"fox"\n', "line 1: wanted an object"),
    "key": ("a.jsonl", '{"prompt": "a"}\n{"sede": 1}\n', "line 2: unknown column 'sede'; did you mean seed?"),
    "truth for a number": ("a.jsonl", '{"steps": true}\n', "steps: wanted a whole number, not True"),
    "number for a text": ("a.jsonl", '{"prompt": 7}\n', "prompt: wanted a text, not 7"),
    "empty list": ("a.jsonl", '{"prompt": "fox", "seed": []}\n', "seed: the list is empty"),
    "object": ("a.csv", "prompt,sampler_options\nfox,eta\n", "wanted an object of JSON, not 'eta'"),
    "nothing": ("a.txt", "\n\n", "the batch has no rows"),
    "only headings": ("a.csv", "prompt,seed\n", "the batch has no rows"),
    "too many": ("a.csv", "prompt,seed\nfox,0:2000000\n", "more than 1,000,000 pictures"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    name, text, message = BAD[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as raised:
        jobs_of(read_rows(tmp_path / name), {}, tmp_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    for name, content, message in (("a.csv", b"prompt\n\xff\n", "must be UTF-8"), ("a.txt", b"\xff", "must be UTF-8")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            list(read_rows(tmp_path / name))
    with pytest.raises(InputError, match=r"nowhere\.txt: can't be read"):
        list(read_rows(tmp_path / "nowhere.txt"))
    with pytest.raises(InputError, match="can't be read"):
        list(read_rows(tmp_path))


def test_every_setting_of_a_request_is_a_column() -> None:
    """But for what only a program can give: arrays, and how pictures of one call share their noise."""
    left_out = {field.name for field in dataclasses.fields(Request)} - set(columns())
    assert left_out == {
        "prompts",
        "negative_prompts",
        "seeds",
        "conditions",
        "noise",
        "one_stream",
        "way",
        "drawn",
        "guides",
    }
    assert {name for name, kind in columns().items() if kind is PICTURE} == set(FROM_FILES)
    assert (columns()["steps"], columns()["strength"], columns()["sampler_options"]) == (int, float, dict)


def test_lists_make_products_with_the_seeds_fastest(tmp_path: Path) -> None:
    rows = [("row 1", {"prompt": "fox", "steps": [2, 3]}), ("row 2", {"prompt": "owl", "seed": 9})]
    jobs = jobs_of(rows, {"seeds": "0:2", "sampler": "ddim, euler", "steps": ["5"]}, tmp_path)
    said = [(j.row, *(j.settings[name] for name in ("prompt", "steps", "sampler", "seed"))) for j in jobs]
    assert said == [
        *((1, "fox", steps, sampler, seed) for sampler in ("ddim", "euler") for steps in (2, 3) for seed in (0, 1)),
        *((2, "owl", 5, sampler, 9) for sampler in ("ddim", "euler")),
    ]
    assert [j.index for j in jobs] == list(range(10))


def test_what_is_not_said_is_left_open(tmp_path: Path) -> None:
    (job,) = jobs_of([("row 1", {"prompt": "fox", "steps": "", "sampler": None})], {}, tmp_path)
    assert job.settings == {"prompt": "fox", "seed": 0}


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: text.strip() == text)


@given(st.lists(st.tuples(texts, st.integers(0, 2**31), st.floats(0.5, 20)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_json_and_table_say_the_same(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    import csv

    folder = tmp_path_factory.mktemp("rows")
    names = ("prompt", "seed", "guidance_scale")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table, objects = (jobs_of(read_rows(folder / name), {}, folder) for name in ("a.csv", "a.jsonl"))
    assert table == objects
    assert [tuple(job.settings[name] for name in names) for job in table] == rows


@given(st.integers(-5, 5), st.integers(-5, 9), st.integers(1, 3))
def test_a_range_is_pythons(start: int, stop: int, step: int) -> None:
    wanted = list(range(start, stop, step))
    if wanted:
        assert list(values_of("seed", f"{start}:{stop}:{step}", "here")) == wanted
    else:
        with pytest.raises(InputError):
            values_of("seed", f"{start}:{stop}:{step}", "here")


@given(st.lists(st.sampled_from(["ddim", "euler", "pndm"]), max_size=150))
def test_what_is_made_together_shares_its_settings(samplers: list[str]) -> None:
    """Each job once, in pieces of one kind, none far from its place, and as few pieces as that allows."""
    jobs = [Job(k, k, {"sampler": sampler, "seed": k, "prompt": str(k)}) for k, sampler in enumerate(samplers)]
    pieces = list(chunks(jobs))
    assert sorted(job.index for piece in pieces for job in piece) == list(range(len(jobs)))
    assert all(len({shared_by(job) for job in piece}) == 1 and len(piece) <= TOGETHER for piece in pieces)
    order = [job.index for piece in pieces for job in piece]
    assert all(abs(index - place) < WINDOW for place, index in enumerate(order))
    wanted = 0
    for begin in range(0, len(jobs), WINDOW):
        kinds = [shared_by(job) for job in jobs[begin : begin + WINDOW]]
        wanted += sum(-(-kinds.count(kind) // TOGETHER) for kind in set(kinds))
    assert len(pieces) == wanted
    assert all(a.index < b.index for piece in pieces for a, b in itertools.pairwise(piece))
