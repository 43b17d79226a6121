"""A batch: the bytes of `sample`, what is done again and what is not, failures, and a kill at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
import weakref
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import write_pix2pix

import tinyldm
from tinyldm import cli
from tinyldm.batches import making
from tinyldm.batches.manifest import FILE, Manifest
from tinyldm.batches.remembering import KEPT, Remembered, remembering
from tinyldm.batches.rows import Job
from tinyldm.batches.run import How, batch
from tinyldm.errors import InputError, Stopped
from tinyldm.pipelines.conditioners import Conditioning
from tinyldm.pipelines.maps import depth_levels, segment_classes
from tinyldm.pipelines.picture_text import read_said
from tinyldm.pipelines.request import as_texts, request


def manifest(folder: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / FILE).read_text(encoding="utf-8").splitlines()]


def files(folder: str | Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))}


@pytest.fixture
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


# The bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_files_are_those_of_sample(run, backend: str) -> None:
    """To the last byte, settings included, in whatever groups they are made."""
    Path("rows.csv").write_text(
        "prompt,negative_prompt,seed,steps,sampler,guidance_scale,width\n"
        'a,,3,2,ddim,4,\nb,dark,4,2,ddim,4,\na,,5,3,euler_a,1,24\n"c, d",,2**0,2,ddim,4,\n'.replace("2**0", "1")
    )
    assert run("batch", "rows.csv", "-o", "out", "--backend", backend, "--name", "{row}.png")[0] == 0
    rows = [
        ("a", "--seed", "3", "--steps", "2", "--sampler", "ddim", "--guidance-scale", "4"),
        ("b", "--negative-prompt", "dark", "--seed", "4", "--steps", "2", "--sampler", "ddim", "--guidance-scale", "4"),
        ("a", "--seed", "5", "--steps", "3", "--sampler", "euler_a", "--guidance-scale", "1", "--width", "24"),
        ("c, d", "--seed", "1", "--steps", "2", "--sampler", "ddim", "--guidance-scale", "4"),
    ]
    for number, words in enumerate(rows, 1):
        assert run("sample", *words, "--backend", backend, "-o", f"{number}.png")[0] == 0
        assert Path(f"{number}.png").read_bytes() == Path(f"out/{number}.png").read_bytes()


def test_prompts_are_read_as_sample_reads_them(run) -> None:
    """With weights, alternatives and the rest, and each row as it says."""
    Path("rows.csv").write_text("prompt,prompt_syntax\n(a:1.4) b,\n[a:b:0.5],\n(a:1.4) b,plain\na AND b,\n")
    words = ("--steps", "4", "--seed", "3")
    status, _, err = run("batch", "rows.csv", "-o", "out", "--name", "{row}.png", *words)
    assert (status, err.count("read as words")) == (0, 1), err
    for row, (prompt, *more) in enumerate(
        [("(a:1.4) b",), ("[a:b:0.5]",), ("(a:1.4) b", "--prompt-syntax", "plain"), ("a AND b",)], 1
    ):
        assert run("sample", prompt, *more, "-o", "one.png", *words)[0] == 0
        assert Path("one.png").read_bytes() == Path(f"out/{row}.png").read_bytes()


def test_files_say_what_the_model_was_opened_with_and_what_a_seed_means(run, checkpoint: Path) -> None:
    opened = ("--vae", str(checkpoint), "--backend", "reference", "--dtype", "float64", "--steps", "2")
    Path("rows.csv").write_text("prompt,rng\na,\na,cuda\na,numpy\na,dice\n")
    status, _, err = run("batch", "rows.csv", "-o", "out", "--name", "{row}.png", *opened)
    assert (status, err.count("row 4, 4.png: failed: rng: 'dice' is unknown")) == (1, 1), err
    for row, rng in enumerate(("torch", "cuda", "numpy"), 1):
        assert run("sample", "a", "--seed", "0", "--rng", rng, *opened, "-o", "one.png")[0] == 0
        assert Path("one.png").read_bytes() == Path(f"out/{row}.png").read_bytes()
        said = read_said(f"out/{row}.png").settings
        assert (said["vae"], said["dtype"], said.get("rng", "torch")) == (checkpoint.name, "float64", rng)


def test_a_setting_without_use_fails_its_row_alone(run, model) -> None:
    Path("rows.jsonl").write_text(
        '{"prompt": "a"}\n{"prompt": "a", "guidance_rescale": 0.5, "guidance_scale": 1}\n'
        '{"prompt": "a", "rng": "numpy", "seed": 4294967296}\n'
    )
    status, _, err = run("batch", "rows.jsonl", "-o", "out", "--name", "{row}.png", "--steps", "1")
    assert (status, list(files("out"))) == (1, ["1.png"])
    assert "guidance_rescale is of a strong guidance" in err
    assert "out of NumPy's range" in err


def test_files_that_begin_from_a_picture_are_those_of_img2img(run) -> None:
    (Path("in")).mkdir()
    Image.effect_noise((20, 18), 60).convert("RGB").save("in/noise.png")
    Path("in/rows.csv").write_text("prompt,image,strength,width\na,noise.png,,\nb,noise.png,0.5,16\n")
    assert run("batch", "in/rows.csv", "-o", "out", "--name", "{row}.png", "--steps", "4")[0] == 0
    more = ("--image", "in/noise.png", "--steps", "4", "--seed", "0")
    assert run("img2img", "a", *more, "-o", "1.png")[0] == 0
    assert run("img2img", "b", *more, "-o", "2.png", "--strength", "0.5", "--width", "16")[0] == 0
    assert run("batch", "-o", "again", "in/rows.csv", "--name", "{row}.png", "--steps", "4")[0] == 0
    for name in ("1.png", "2.png"):
        assert Path(name).read_bytes() == (Path("out") / name).read_bytes()
    assert files("out") == files("again")


def test_files_of_an_edit_are_those_of_inpaint(run) -> None:
    """Under a mask, which may be of any kind and is resized with its picture, and at the strength of `inpaint`."""
    Image.effect_noise((20, 18), 60).convert("RGB").save("noise.png")
    Image.effect_noise((20, 18), 90).convert("1", dither=Image.Dither.NONE).save("mask.png")
    Path("rows.csv").write_text(
        "prompt,mask,image,mask_blur,strength,width\na,mask.png,noise.png,,,\n"
        "b,mask.png,noise.png,,0.5,8\nc,mask.png,noise.png,2,,\n"
    )
    assert run("batch", "rows.csv", "-o", "out", "--name", "{row}.png", "--steps", "4")[0] == 0
    more = ("--image", "noise.png", "--mask", "mask.png", "--steps", "4", "--seed", "0")
    assert run("inpaint", "a", *more, "-o", "1.png")[0] == 0
    assert run("inpaint", "b", *more, "-o", "2.png", "--strength", "0.5", "--width", "8")[0] == 0
    assert run("inpaint", "c", *more, "-o", "3.png", "--mask-blur", "2")[0] == 0
    words = ("--set", "mask=mask.png", "--image", "noise.png", "-o", "set", "--name", "1.png", "--steps", "4")
    Path("in").mkdir()
    Path("in/rows.txt").write_text("a\n")
    assert run("batch", "in/rows.txt", *words)[0] == 0
    for name in ("1.png", "2.png", "3.png"):
        assert Path(name).read_bytes() == (Path("out") / name).read_bytes()
    assert Path("set/1.png").read_bytes() == Path("1.png").read_bytes()


def test_a_model_that_edits_takes_the_picture_whole(tmp_path: Path) -> None:
    """Beside the latent, at no strength, as `tinyldm edit` gives it."""
    Image.effect_noise((16, 16), 60).convert("RGB").save(tmp_path / "noise.png")
    model = tinyldm.load(write_pix2pix(tmp_path / "edit"), backend="reference")
    row = {"prompt": "a", "image": str(tmp_path / "noise.png"), "steps": 2, "seed": 3}
    report = batch([row], tmp_path / "out", model=model, name="1.png")
    assert (report.made, report.failed) == (1, {})
    wanted = request("a", image=Image.open(tmp_path / "noise.png"), steps=2, seed=3).resolved(model.parts)
    (alone,) = model.pictures(wanted)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/1.png")), np.asarray(alone.image))


def test_variations_are_those_of_sample(run) -> None:
    """Each with the seeds that its row says, though the rows have all else in common."""
    Path("rows.csv").write_text("prompt,seed,variation_seed,variation_strength\na,3,7,0.4\nb,9,7,0.4\n")
    assert run("batch", "rows.csv", "-o", "out", "--name", "{row}.png", "--steps", "2")[0] == 0
    for row, (prompt, seed) in enumerate([("a", "3"), ("b", "9")], 1):
        words = ("--seed", seed, "--variation-seed", "7", "--variation-strength", "0.4", "--steps", "2")
        assert run("sample", prompt, *words, "-o", "one.png")[0] == 0
        assert Path("one.png").read_bytes() == Path(f"out/{row}.png").read_bytes()


def test_maps_are_read_as_they_are_stored(tmp_path: Path) -> None:
    """Numbers of classes and of depth are no colours."""
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    classes = Image.fromarray(numbers).convert("P")
    classes.putdata(numbers.ravel().tolist())
    classes.save(tmp_path / "segments.png")
    Image.fromarray(numbers.astype(np.uint16) * 5000).save(tmp_path / "depth.png")
    settings = {name: tmp_path / f"{name}.png" for name in ("segments", "depth")}
    read = {name: making.READERS[name]({**settings, "width": 64}) for name in settings}
    assert np.array_equal(segment_classes(read["segments"]), numbers)
    assert np.array_equal(depth_levels(read["depth"]), numbers * 5000.0)


def test_the_manifest_says_what_was_made_from_what(run) -> None:
    Path("rows.txt").write_text("a\nb\n")
    status, out, _ = run("batch", "rows.txt", "--seeds", "0:2", "--steps", "1", "--sampler-options", "x")
    assert status == 2  # the option is called --set
    status, out, _ = run("batch", "rows.txt", "--seeds", "0:2", "--steps", "1", "--set", 'sampler_options={"eta": 0.5}')
    assert (status, out.startswith("rows: 4 pictures made, ")) == (0, True)
    lines = manifest("rows")
    assert [(line["row"], line["file"]) for line in lines] == [
        (row, f"000{row}-{prompt}-{seed}.png") for row, prompt in ((1, "a"), (2, "b")) for seed in (0, 1)
    ]
    for line in lines:
        path = Path("rows") / line["file"]
        assert line["bytes"] == path.stat().st_size
        assert line["settings"] == read_said(path).settings == as_texts(json.loads(Image.open(path).text["tinyldm"]))
        assert line["settings"]["sampler_options"] == '{"eta": 0.5}'


KILLS = 15

# Going on ----------------------------------------------------------------------------------------------------------


def made(model, rows, folder, **more) -> list[str]:
    """The files that a call makes."""
    names: list[str] = []
    how = How(watch=lambda report, made: names.append(made.job.name))
    batch(rows, folder, model=model, how=how, **{"name": "{row}-{seed}.png", **more})
    return names


ROWS = [{"prompt": p, "steps": 1} for p in "abc"]


def test_what_is_there_is_not_made_again(model, tmp_path: Path) -> None:
    assert made(model, ROWS[:2], tmp_path) == ["1-0.png", "2-0.png"]
    before = files(tmp_path)
    assert made(model, ROWS, tmp_path) == ["3-0.png"]
    assert made(model, ROWS, tmp_path) == []
    assert {name: files(tmp_path)[name] for name in before} == before
    assert len(manifest(tmp_path)) == 3


def test_what_is_lost_or_damaged_is_made_again(model, tmp_path: Path) -> None:
    made(model, ROWS, tmp_path)
    before = files(tmp_path)
    (tmp_path / "1-0.png").unlink()
    (tmp_path / "2-0.png").write_bytes(b"")  # as a failure of power leaves files
    assert made(model, ROWS, tmp_path) == ["1-0.png", "2-0.png"]
    assert files(tmp_path) == before


def test_pictures_of_other_settings_are_not_lost(model, tmp_path: Path) -> None:
    made(model, ROWS, tmp_path)
    before = files(tmp_path)
    other = [{**row, "steps": 2} for row in ROWS]
    with pytest.raises(InputError, match=r"1-0\.png: is there, and was made with other settings"):
        made(model, other, tmp_path)
    assert files(tmp_path) == before
    batch(other, tmp_path, model=model, name="{row}-{seed}.png", how=How(overwrite=True))
    assert files(tmp_path) != before
    assert made(model, other, tmp_path) == []


def test_other_weights_are_other_settings(model, tmp_path: Path) -> None:
    made(model, ROWS, tmp_path)
    weights = model.unet.weights
    weights.source.read  # noqa: B018  # the file itself is shared by the tests, so its reading is changed
    read = type(weights).read

    def retrained(node, name, dtype=None):
        return read(node, name, dtype) + (0.5 if (node.path, name) == ("conv_out", "bias") else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(weights), "read", retrained)
        with pytest.raises(InputError, match="other settings"):
            made(tinyldm.load(model.path, backend="reference"), ROWS, tmp_path)


def test_a_picture_whose_line_is_missing_is_known_by_its_settings(model, tmp_path: Path) -> None:
    """As a kill between the picture and the line leaves it."""
    made(model, ROWS, tmp_path)
    path = tmp_path / FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert made(model, ROWS, tmp_path) == []
    assert len(manifest(tmp_path)) == 3
    path.unlink()
    Image.new("RGB", (16, 16)).save(tmp_path / "2-0.png")
    with pytest.raises(InputError, match=r"2-0\.png: is there"):
        made(model, ROWS, tmp_path)


def test_half_a_line_is_cut_off(model, tmp_path: Path) -> None:
    made(model, ROWS, tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    for cut in (1, 30, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        assert made(model, ROWS, tmp_path) == []
        assert len(manifest(tmp_path)) == 3


def test_a_file_that_is_no_manifest_is_left_alone(model, tmp_path: Path) -> None:
    for text in ("my notes\n", "[1]\n", '{"file": "x"}\n'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(InputError, match="line 1: is no line of a batch"):
            made(model, ROWS, tmp_path)
        assert (tmp_path / FILE).read_text() == text


@pytest.mark.skipif(os.name == "nt", reason="locks of POSIX")
def test_a_folder_has_one_run_at_a_time(model, tmp_path: Path) -> None:
    with Manifest(tmp_path), pytest.raises(InputError, match="another batch is at work in this folder"):
        made(model, ROWS, tmp_path)
    assert len(made(model, ROWS, tmp_path)) == 3


def test_what_a_killed_run_was_writing_is_removed(model, tmp_path: Path) -> None:
    for name in (".1-0.png.abcd_123", ".other.png.abcd_123", ".1-0.png.short"):
        (tmp_path / name).write_text("half")
    made(model, ROWS, tmp_path)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".1-0.png.short", ".other.png.abcd_123"]


def test_stopped_by_who_watches(model, tmp_path: Path) -> None:
    """What was finished is kept, and the next call goes on."""

    def stop(step, jobs) -> None:
        assert [job.index for job in jobs] == list(step.pictures)
        if step.pictures.start == 2:
            raise Stopped

    with pytest.raises(Stopped):
        batch(ROWS, tmp_path, model=model, name="{row}-{seed}.png", how=How(callback=stop))
    assert list(files(tmp_path)) == ["1-0.png", "2-0.png"]
    assert made(model, ROWS, tmp_path) == ["3-0.png"]


@pytest.mark.skipif(os.name == "nt", reason="kill of POSIX")
def test_killed_at_many_moments(checkpoint: Path, tmp_path: Path) -> None:
    """`kill -9`, at moments all over the run: nothing that was finished is made again, and nothing is broken."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tinyldm.cli", "tinyldm.batches.run"])
    prompts = [f"{letter}{k}" for k in range(20) for letter in "abcd"]
    (tmp_path / "rows.txt").write_text("\n".join(prompts))
    out = tmp_path / "out"
    words = ["batch", str(tmp_path / "rows.txt"), "-o", str(out), "--steps", "2", "--seed", "4"]
    words += ["--model", str(checkpoint), "--backend", "reference"]
    drawn, kills = random.Random(0), 0
    for attempt in range(KILLS + 1):
        stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
        process = processes.Process(target=cli.main, args=(words,))
        process.start()
        if attempt < KILLS:
            wait_for_work(process, out, len(stamps))
            time.sleep(drawn.uniform(0, 0.03))
            process.kill()
        process.join(120)
        kills += process.exitcode == -signal.SIGKILL
        check_after_a_kill(out, stamps)
    assert kills == KILLS
    model = tinyldm.load(checkpoint, backend="reference")
    rows = [{"prompt": prompt, "seed": 4, "prompt_syntax": "webui"} for prompt in prompts]
    wanted = [png for row in rows for png in (making.make(model, [Job(0, 1, {**row, "steps": 2})]))]
    assert list(files(out).values()) == [made.png for made in wanted]
    assert not list(out.glob(".*"))


def check_after_a_kill(out: Path, stamps: dict[Path, int]) -> None:
    """What was there is as it was, every picture and every line is whole, and at most one picture has no line yet."""
    now = set(out.glob("*.png"))
    for path in now:
        with Image.open(path) as picture:
            picture.load()
    assert all(path.stat().st_mtime_ns == before for path, before in stamps.items()), "one was made again"
    lines = (out / FILE).read_bytes().splitlines(keepends=True)
    said = [out / json.loads(line)["file"] for line in lines if line.endswith(b"\n")]
    assert len(said) == len(set(said))
    assert set(said) <= now
    assert len(now - set(said)) <= 1


def wait_for_work(process: BaseProcess, out: Path, there: int) -> None:
    """Until the run has written its next picture, or ended."""
    end = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < end and len(list(out.glob("*.png"))) <= there:
        time.sleep(0.002)


# Failures ----------------------------------------------------------------------------------------------------------


def test_a_row_that_fails_is_reported_and_the_rest_goes_on(run) -> None:
    Path("rows.csv").write_text("prompt,width,sampler,image\na,,,\nb,15,,\nc,,magic,\nd,,,broken.png\ne,,,\n")
    Path("broken.png").write_text("no picture")
    words = ("batch", "rows.csv", "-o", "out", "--steps", "2", "--name", "{row}.png")
    status, out, err = run(*words)
    assert status == 1
    assert out.startswith("out: 2 pictures made, 3 failed")
    assert list(files("out")) == ["1.png", "5.png"]
    assert "note: row 2, 2.png: failed: width must be a multiple of 2" in err
    assert "note: row 3, 3.png: failed: sampler 'magic' is unknown" in err
    assert "note: row 4, 4.png: failed: broken.png: not a picture" in err
    assert "Traceback" not in err
    errors = {line["file"]: line["error"] for line in manifest("out") if "error" in line}
    assert set(errors) == {"2.png", "3.png", "4.png"}
    Image.new("RGB", (16, 16), "red").save("broken.png")
    status, out, _ = run(*words)  # tries those again
    assert (status, list(files("out"))) == (1, ["1.png", "4.png", "5.png"])
    assert out.startswith("out: 1 pictures made, 2 were there, 2 failed")


def test_where_no_row_will_do_nothing_is_begun(run) -> None:
    Path("rows.txt").write_text("a\nb\n")
    status, _, err = run("batch", "rows.txt", "--sampler", "magic")
    assert (status, err.splitlines()[-1].startswith("tinyldm: error: sampler 'magic' is unknown")) == (2, True)
    assert files("rows") == {}
    assert manifest("rows") == []


def test_one_of_a_group_that_fails_is_no_others_misfortune(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = type(model.parts.conditioner).check

    def fail(self, prompts) -> None:
        check(self, prompts)
        if "b" in prompts and len(prompts) > fail.after:
            raise ZeroDivisionError("of a bug")

    fail.after = 1  # as if the rows were right when they were looked at
    monkeypatch.setattr(type(model.parts.conditioner), "check", fail)
    assert made(model, ROWS, tmp_path) == ["1-0.png", "2-0.png", "3-0.png"]
    fail.after = 0
    monkeypatch.setattr("tinyldm.batches.run.refusals", lambda *_: {})
    report = batch(ROWS, tmp_path / "b", model=model, name="{row}.png")
    assert (report.made, report.failed) == (2, {"2.png": "ZeroDivisionError: of a bug"})


def test_too_little_memory_for_one_row(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinyldm import memory

    Path("rows.csv").write_text("prompt,width\na,\nb,1600\n")
    least = memory.expected_bytes(tinyldm.load("../tiny") if Path("../tiny").exists() else tinyldm.load(), 8, 8)
    monkeypatch.setattr(memory, "available_bytes", lambda: least)
    status, _, err = run("batch", "rows.csv", "-o", "out", "--steps", "1")
    assert status == 1
    assert "row 2: 1600×16: about" in err
    assert len(files("out")) == 1


BAD = {
    "no file": (["nowhere.txt"], "nowhere.txt: can't be read"),
    "column": (["table.csv"], "unknown column 'promt'; did you mean prompt?"),
    "option": (["rows.txt", "--steps", "many"], "--steps: steps: wanted a whole number, not 'many'"),
    "set": (["rows.txt", "--set", "eta"], "--set wants COLUMN=VALUE"),
    "set of what": (["rows.txt", "--set", "eta=1"], "unknown column 'eta'"),
    "name": (["rows.txt", "--name", "../{row}.png"], "inside the folder of the batch"),
    "collision": (["rows.txt", "--name", "a.png"], "row 1 and row 2 would both be a.png; add {prompt}"),
    "folder": (["rows.txt", "-o", "rows.txt"], "rows.txt"),
    "group": (["rows.txt", "--batch-size", "0"], "--batch-size must be 1 or more"),
    "image": (["rows.txt", "--image", "no.png"], "there is no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run, case: str) -> None:
    Path("rows.txt").write_text("a\nb\n")
    Path("table.csv").write_text("promt\na\n")
    words, message = BAD[case]
    before = sorted(os.listdir())
    status, _, err = run("batch", *words)
    assert status == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_no_link_leads_out_of_the_folder(model, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of the folder of the batch"):
        batch(ROWS, tmp_path / "out", model=model, name="sub/{row}.png")
    batch(ROWS, tmp_path / "out", model=model, name="own/{row}.png")
    assert len(files(tmp_path / "out" / "own")) == 3


def test_a_full_disk_ends_the_run(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("rows.txt").write_text("a\nb\n")
    monkeypatch.setattr(os, "fsync", full)
    status, _, err = run("batch", "rows.txt", "--steps", "1")
    assert (status, err.splitlines()[-1][-23:]) == (2, os.strerror(errno.ENOSPC)[-23:])
    assert files("rows") == {}
    assert manifest("rows") == []


# What is kept ------------------------------------------------------------------------------------------------------


def test_prompts_that_rows_share_are_read_once(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    encode = type(model.parts.conditioner).encode

    def count(self, prompts, negatives, *more) -> Conditioning:
        asked.extend(zip(prompts, negatives, strict=True))
        return encode(self, prompts, negatives, *more)

    monkeypatch.setattr(type(model.parts.conditioner), "encode", count)
    rows = [
        {"prompt": p, "negative_prompt": n, "seed": [1, 2], "sampler": ["ddim", "euler"]} for p in "ab" for n in "cd"
    ]
    batch(rows, tmp_path, model=model, settings={"steps": 1})
    assert sorted(asked) == [(p, n) for p in "ab" for n in "cd"]


def test_no_more_prompts_are_kept_than_said(model) -> None:
    encode = Remembered(model.parts.conditioner.encode)
    for k in range(KEPT + 5):
        encode([str(k)], [""], 7.5, (16, 16))
    assert len(encode.kept) == KEPT


@pytest.mark.parametrize("kind", ["write_sd", "write_xl", "write_lcm"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_remembered_condition_is_the_same_to_the_last_bit(tmp_path: Path, kind: str, scale: float) -> None:
    import tiny_checkpoints

    asked = tinyldm.load(getattr(tiny_checkpoints, kind)(tmp_path / "tiny")).parts.conditioner
    again, size = remembering(asked), (16, 16)
    again.encode(["b", "z"], ["n", ""], scale, size)
    found = again.encode(["a", "b", "a"], ["", "n", ""], scale, size)
    for k, (prompt, negative) in enumerate((("a", ""), ("b", "n"), ("a", ""))):
        wanted, one = asked.encode([prompt], [negative], scale, size), found.of_pictures(range(k, k + 1), 3)
        assert one.guided == wanted.guided
        np.testing.assert_array_equal(one.context, wanted.context)
        assert set(one.arrays) == set(wanted.arrays)
        for name, array in wanted.arrays.items():
            np.testing.assert_array_equal(one.arrays[name], array)


def test_weights_are_read_once(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(model, ROWS, tmp_path / "warm")
    source = type(model.unet.weights)
    monkeypatch.setattr(source, "read", lambda *_: pytest.fail("a weight was read again"))
    monkeypatch.setattr("tinyldm.batches.run.identity", lambda model: {})
    made(model, ROWS, tmp_path / "again")


def test_from_python(tmp_path: Path, model) -> None:
    report = tinyldm.batch([{"prompt": "a", "seed": [1, 2]}], tmp_path, model=model, settings={"steps": 1})
    assert (report.total, report.made, report.skipped, report.failed) == (2, 2, 0, {})
    wanted = model.text_to_image("a", seed=2, steps=1)[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "0001-a-2.png")), np.asarray(wanted))


def test_making_keeps_nothing_of_what_is_done(model, tmp_path: Path) -> None:
    """The pictures that a run holds at once are those of one group."""
    alive: list[weakref.ref] = []
    most = 0

    def watch(report, done: making.Made) -> None:
        nonlocal most
        alive[:] = [one for one in alive if one() is not None] + [weakref.ref(Holder.of(done))]
        most = max(most, len(alive))

    class Holder(dict):
        @classmethod
        def of(cls, done: making.Made) -> Holder:
            holder = cls()
            object.__setattr__(done, "said", holder)
            return holder

    rows = [{"prompt": "a", "seed": f"0:{3 * making.TOGETHER}"}]
    batch(rows, tmp_path, model=model, settings={"steps": 1}, how=How(watch=watch))
    assert most <= 2 * making.TOGETHER
