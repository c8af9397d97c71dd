"""Pictures of a user as first frames: folders of pairs, files that name them, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rlvis.cli import main
from rlvis.data import sampler
from rlvis.data.pairs import picture
from rlvis.data.prompts import PromptSet, load_prompts
from rlvis.schema import DataConfig

SIZE = (24, 32)


def draw(path: Path, colour: tuple[int, int, int], width: int = 64, height: int = 48) -> None:
    Image.new("RGB", (width, height), colour).save(path)


def load(path: Path, **changes: Any) -> PromptSet:
    return load_prompts(DataConfig(source="i2v_pairs", path=str(path), **changes), SIZE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "one.png", (255, 0, 0))
    draw(tmp_path / "two.jpg", (0, 0, 255), 48, 48)
    (tmp_path / "one.txt").write_text("a fox runs\n away\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("an owl flies", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a pair")
    return tmp_path


def test_a_folder_of_pairs(folder: Path) -> None:
    prompts = load(folder)
    assert prompts.texts == ("a fox runs away", "an owl flies")
    assert prompts.metadata == ({"image": "one.png"}, {"image": "two.jpg"})
    batch = sampler.select(prompts, [1, 0])
    assert batch.frames is not None
    assert (tuple(batch.frames.shape), batch.frames.dtype) == ((2, 3, *SIZE), torch.uint8)
    assert batch.frames[1, 0].min() == 255
    assert batch.frames[0, 2].min() > 240  # a JPEG


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_file_names_the_pictures(folder: Path, kind: str) -> None:
    rows = [
        {"caption": "go", "still": "one.png", "tag": "x"},
        {"caption": "go", "still": str(folder / "two.jpg"), "tag": "y"},
        {"caption": "go", "still": "one.png", "tag": "x"},
    ]
    path = folder / f"p.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)
    elif kind == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text(f"[{','.join(lines)}]" if kind == "json" else "\n".join(lines))
    prompts = load(path, column="caption", image="still", keep=[])
    # One text with two pictures is two prompts, with a picture each.
    assert prompts.texts == ("go", "go")
    assert prompts.duplicates == 1
    assert [set(row) for row in prompts.metadata] == [{"still"}, {"still"}]
    assert prompts.frames is not None
    red, blue = prompts.frames([0, 1]).float().mean((2, 3)).tolist()
    assert red[0] > 250 > 5 > red[2]
    assert blue[2] > 250 > 5 > blue[0]


def test_splits_are_folders_or_a_share(folder: Path) -> None:
    for name in ("train", "test"):
        (folder / name).mkdir()
        draw(folder / name / "a.webp", (0, 255, 0))
        (folder / name / "a.txt").write_text(f"of {name}")
    assert load(folder).texts == ("of train",)
    assert load(folder, split="test").texts == ("of test",)
    with pytest.raises(ValueError, match=r"heldout, which is not in it \(it holds notes"):
        load(folder, split="heldout")
    sides = [load(folder / "test", heldout=share).texts for share in (0.0, 1e-9)]
    assert sides == [("of test",)] * 2


def test_pictures_are_scaled_to_cover_and_cut_at_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255  # a white middle third
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    frame = picture(tmp_path / "wide.png", (20, 20))
    assert frame.shape == (3, 20, 20)
    assert frame.min() > 200  # the black thirds are cut, not squeezed in
    tall = Image.fromarray(pixels)
    tall.save(tmp_path / "turned.jpg", exif=_turned(), quality=95)
    assert picture(tmp_path / "turned.jpg", (120, 40)).float().mean() == pytest.approx(85, abs=3)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return exif


def test_other_pictures_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (10, 10), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (10, 10), (1, 2, 3, 128)).save(tmp_path / "clear.png")
    assert picture(tmp_path / "grey.png", (8, 8)).unique().tolist() == [77]
    assert picture(tmp_path / "clear.png", (8, 8))[:, 0, 0].tolist() == [1, 2, 3]


def test_lonely_files_are_named(folder: Path) -> None:
    (folder / "three.txt").write_text("alone")
    with pytest.raises(
        ValueError, match=r"1 of 3 files have no picture of the same name, the first is three\.txt"
    ):
        load(folder)
    (folder / "three.txt").unlink()
    draw(folder / "four.png", (0, 0, 0))
    with pytest.raises(ValueError, match=r"no text of the same name, the first is four\.png"):
        load(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "image": "absent.png"}, r"p\.jsonl:1: the picture 'absent\.png' is no file"),
        ({"prompt": "a", "image": "https://host/x.png"}, r"is no file"),
        ({"prompt": "a", "image": 7}, r"the picture 7 is no file"),
        ({"prompt": "a", "imag": "one.png"}, r"no column 'image', only imag; type data\.image=imag"),
    ],
)
def test_a_row_without_its_picture_is_an_error(folder: Path, row: dict[str, Any], message: str) -> None:
    (folder / "p.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        load(folder / "p.jsonl")


def test_what_is_no_picture_or_no_list_of_them(folder: Path) -> None:
    (folder / "one.png").write_bytes(b"broken")
    prompts = load(folder)
    assert prompts.frames is not None
    with pytest.raises(ValueError, match=r"one\.png cannot be read"):
        prompts.frames([0])
    with pytest.raises(ValueError, match=r"pairs are a folder of NAME\.png and NAME\.txt, or a jsonl"):
        load(folder / "one.txt")


def test_two_training_steps_from_pictures(
    folder: Path, wan_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("run") / "run"
    words = ["model=wan", f"model.path={wan_folder}", "model.condition=first_frame", "model.frames=5"]
    words += ["model.height=32", "model.width=32", "model.dtype=float32", "model.max_tokens=8"]
    words += ["model.lora.rank=4"]
    words += ["data=i2v_pairs", f"data.path={folder}", "reward=jpeg", "engine.device=cpu", "threads=1"]
    words += ["data.prompts_per_step=2", "data.samples_per_prompt=2", "train.micro_batch=4"]
    words += [
        "sampler=flow_fast",
        "sampler.steps=3",
        "sampler.window.size=1",
        "train.steps=2",
        "train.updates_per_step=1",
    ]
    assert main(["train", *words, f"run_dir={run}", "tracker.samples_every=0"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["ratio/max_deviation_first"] for line in lines] == [0.0, 0.0]
