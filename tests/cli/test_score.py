"""`rlvis score` in process: which files meet which prompts, what the table holds, what a failure costs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rlvis import cli
from tests.cli.helpers import refusal

SCORER = """
import torch
from rlvis.reward.contract import Scores

CALLS = []

def level(images, prompts, metadata):
    CALLS.append([len(images), *images.shape[1:], list(prompts)])
    if any(p == "raises" for p in prompts):
        raise RuntimeError("this one")
    return images.double().mean((1, 2, 3, 4))

def noisy(images, prompts, metadata):
    value = torch.tensor([float(m.get("want", len(p))) for p, m in zip(prompts, metadata)])
    return Scores(value, torch.isfinite(value), 0 * value + 0.25)
"""


@pytest.fixture(autouse=True)
def scorers(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for media, and a module of scorers that was never imported."""
    monkeypatch.syspath_prepend(elsewhere)
    (elsewhere / "scorers_of_files.py").write_text(SCORER)
    (elsewhere / "media").mkdir()
    monkeypatch.delitem(sys.modules, "scorers_of_files", raising=False)


def picture(name: str, level: int, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    colour: Any = (level,) * 3 if mode == "RGB" else (level, level, level, 0)
    Image.new(mode, size, colour).save(Path("media") / name)


LEVEL = ["reward=function", "reward.terms.function.scorer=scorers_of_files.level"]


def scored(*words: str, code: int = 0) -> pd.DataFrame:
    assert cli.main(["score", *LEVEL, "images=media", *words]) == code
    return pd.read_csv("scores.csv")


def test_lines_meet_the_sorted_files_of_any_size(capsys: Any) -> None:
    picture("b.png", 100)
    picture("a.png", 50, size=(4, 4))
    picture("c.webp", 200)
    Path("media/notes.txt").write_text("no picture")
    Path("prompts.txt").write_text("one\ntwo\nthree\n\n")
    table = scored("prompts=prompts.txt")
    assert table["file"].tolist() == ["a.png", "b.png", "c.webp"]
    assert table["prompt"].tolist() == ["one", "two", "three"]
    assert table["function"].tolist() == pytest.approx([50, 100, 200], abs=2)  # webp has losses
    assert table["valid"].all()
    import scorers_of_files

    assert scorers_of_files.CALLS == [[1, 1, 3, 4, 4, ["one"]], [2, 1, 3, 6, 8, ["two", "three"]]]
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "3 of 3 files scored"
    assert out.splitlines()[-1] == "scores.csv"


def test_a_table_names_files_and_brings_metadata() -> None:
    picture("a.jpg", 10)
    picture("b.jpg", 20)
    rows = [{"file": "b.jpg", "prompt": "x", "want": 2.5}, {"file": "a.jpg", "prompt": "four"}]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    words = ["+reward.terms.n.scorer=scorers_of_files.noisy", "prompts=prompts.jsonl", "out=s.parquet"]
    assert cli.main(["score", *LEVEL, "images=media", *words]) == 0
    table = pd.read_parquet("s.parquet")
    assert table["file"].tolist() == ["b.jpg", "a.jpg"]
    assert table["n"].tolist() == [2.5, 4.0]
    assert list(table.columns) == ["file", "prompt", "function", "n", "valid", "n_noise_var"]
    assert table["n_noise_var"].tolist() == [0.25, 0.25]
    Path("prompts.csv").write_text("prompt,want,file\nx,7,a.jpg\n")
    assert cli.main(["score", *LEVEL, "images=media", *words[:1], "prompts=prompts.csv"]) == 0
    assert pd.read_csv("scores.csv")["n"].tolist() == [7.0]


def test_clips_are_read_whole_or_at_a_rate() -> None:
    frames = np.repeat(np.arange(12, dtype=np.uint8) * 20, 16 * 16 * 3).reshape(12, 16, 16, 3)
    Image.fromarray(frames[0]).save(
        "media/a.gif", save_all=True, append_images=[Image.fromarray(f) for f in frames[1:]], duration=100
    )
    assert scored()["function"].tolist() == pytest.approx([110], abs=3)
    scored("fps=5", "overwrite=true")
    scored("overwrite=true", "reward.terms.function.frames=first")
    import scorers_of_files

    assert [call[1] for call in scorers_of_files.CALLS] == [12, 6, 1]


def test_failures_are_counted_and_empty(capsys: Any) -> None:
    for i, name in enumerate(("a.png", "b.png", "d.png")):
        picture(name, 10 * i)
    Path("media/c.png").write_bytes(b"not a picture")
    Path("prompts.txt").write_text("x\nraises\ny\nz\n")
    table = scored("prompts=prompts.txt")
    assert table["valid"].tolist() == [True, False, False, True]
    assert table["function"].isna().tolist() == [False, True, True, False]
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "2 of 4 files scored; failed: unreadable 1, function/raised 1"


def test_nothing_scored_is_a_failure() -> None:
    picture("a.png", 1)
    Path("prompts.txt").write_text("raises\n")
    assert scored("prompts=prompts.txt", code=1)["function"].isna().all()


def test_transparent_pictures_stand_on_white() -> None:
    picture("a.png", 0, mode="RGBA")
    assert scored()["function"].tolist() == [255.0]


def test_neighbours_of_a_prompt_stay_in_one_call() -> None:
    for i in range(6):
        picture(f"{i}.png", i)
    Path("prompts.txt").write_text("x\nx\nx\ny\ny\ny\n")
    scored("prompts=prompts.txt", "batch=2")
    import scorers_of_files

    assert [call[-1] for call in scorers_of_files.CALLS] == [["x"] * 3, ["y"] * 3]


def test_many_sizes_do_not_pile_up() -> None:
    for i in range(20):
        picture(f"{i:02}.png", i, size=(8 + i % 10, 8))
    assert scored("batch=1")["function"].tolist() == [float(i) for i in range(20)]


def test_a_cache_answers_the_second_time() -> None:
    picture("a.png", 1)
    for words in ([], ["overwrite=true"]):
        assert math.isclose(scored("reward.cache=kept", *words)["function"][0], 1.0)
    import scorers_of_files

    assert len(scorers_of_files.CALLS) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing says what to score; type rlvis score reward=NAME images=DIR"),
        (["images=media"], "nothing says how to score"),
        (["reward=checker", "images=nowhere"], "images=nowhere: there is no such folder"),
        (["reward=checker", "images=media", "prompts=p.txt"], "prompts=p.txt: there is no such file"),
        (["reward=checker", "images=empty"], "images=empty holds no pictures"),
        (
            ["reward=checker", "images=media", "prompts=two.txt"],
            "two.txt has 2 lines and media has 1 pictures",
        ),
        (["reward=checker", "images=media", "prompts=x.csv"], "x.csv:2: there is no file media/b.png"),
        (["reward=checker", "images=media", "prompts=y.csv"], "wanted the columns file and prompt"),
        (["reward=checker", "images=media", "prompts=z.doc"], "wanted a file that ends in .txt, .jsonl"),
        (["reward=checker", "images=media", "out=x.png"], "wanted a name that ends in .csv or .parquet"),
        (["reward=checker", "images=media", "out=x/y.csv"], "there is no folder x"),
        (
            ["reward=checker", "images=media", "out=x.csv"],
            "x.csv exists; type out=FILE for another, or overw",
        ),
        (["reward=checker", "images=media", "batch=0"], "batch=0: wanted a whole number above 0"),
        (["reward=checker", "images=media", "fps=fast"], "fps=fast: wanted a number above 0"),
        (["reward=checker", "images=media", "overwrite=yes"], "overwrite=yes: wanted true or false"),
        (["reward=checker", "images=media", "imagse=x"], "unknown word imagse; nearest: images"),
        (["reward=checker", "images=media", "images="], "wanted images=VALUE"),
        (["reward=checker", "images=media", "--resolve"], "--resolve belongs to rlvis train"),
        (["reward=function", "images=media"], "reward.terms.function.scorer is not set"),
        (["reward=checker", "images=media", "reward.refill=1"], "are for the training; leave them out"),
        (["reward=checker", "images=media", "reward.executor=thread"], "is for the training"),
        (
            ["reward=jpeg", "+reward.terms.jpeg.kwargs.quality=0", "images=media"],
            "quality=0: wanted at least 1",
        ),
        (
            ["reward=jpeg", "reward.terms.jpeg.scorer=clipp", "images=media"],
            "scorer=clipp: did you mean clip?",
        ),
        (["reward=checker", "images=media", "reward.actors=0"], "reward.actors=0: wanted at least 1"),
        (["reward=checker", "images=media", "+reward.terms.valid.scorer=intact"], "has a column valid"),
    ],
)
def test_mistakes_are_told_before_anything_loads(words: list[str], message: str, capsys: Any) -> None:
    picture("a.png", 1)
    Path("empty").mkdir()
    Path("two.txt").write_text("1\n2\n")
    Path("x.csv").write_text("file,prompt\nb.png,x\n")
    Path("y.csv").write_text("name,prompt\nb.png,x\n")
    Path("z.doc").touch()
    assert message in refusal(capsys, "score", *words)


def test_help_and_several_processes(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["score", "--help"]) == 0
    assert "overwrite=true" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "runs in one process" in refusal(capsys, "score", "reward=checker", "images=media")


@pytest.mark.parametrize("verb", [["score", "images=media"], ["serve", "port=0"]])
def test_weights_that_cannot_be_had_are_one_line(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    picture("a.png", 10)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    line = refusal(capsys, *verb, "reward=pickscore")
    assert "yuvalkirstain/PickScore_v1: it is not in the cache" in line
    assert "type reward.terms.pickscore.kwargs.path=FOLDER" in line
