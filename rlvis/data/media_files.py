"""Pictures and clips in a folder, with the prompt and metadata of each, for scoring what is there already.

Prompts come one a line, in the order of the sorted file names, or from a table with the columns file and
prompt, whose other columns are metadata. Files are read one at a time; a clip is all its frames, or so many a
second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvis.data import readers, video_file
from rlvis.data.pairs import PICTURES

CLIPS = (".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi")
FILE, PROMPT = "file", "prompt"


@dataclass(frozen=True)
class Sample:
    """A file, called `name` below the folder, and what it is for."""

    name: str
    path: Path
    prompt: str
    metadata: dict[str, Any]


def listed(folder: Path, prompts: Path | None) -> list[Sample]:
    """The samples of a folder: those that the table `prompts` names, in its order; else all files, sorted by
    name, each with its line of `prompts`, or with an empty prompt where there is none.

    Raises ValueError when there is nothing, a named file is missing, or lines and files differ in number.
    """
    if not folder.is_dir():
        raise ValueError(f"images={folder}: there is no such folder")
    if prompts is not None and not prompts.is_file():
        raise ValueError(f"prompts={prompts}: there is no such file")
    kind = None if prompts is None else prompts.suffix.lower().removeprefix(".")
    if prompts is not None and kind != "txt":
        return _of_table(folder, prompts, str(kind))
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (*PICTURES, *CLIPS))
    if not names:
        raise ValueError(
            f"images={folder} holds no pictures ({', '.join(PICTURES)}) and no clips ({', '.join(CLIPS)})"
        )
    lines = [""] * len(names)
    if prompts is not None:
        rows, _ = readers.txt(prompts, PROMPT, None)
        lines = [text.strip() for _, text, _ in rows]
        while lines and not lines[-1]:
            lines.pop()
    if len(lines) != len(names):
        raise ValueError(
            f"{prompts} has {len(lines)} lines and {folder} has {len(names)} pictures and clips; give a line "
            "to each, in the order of the sorted names, or a .csv or .jsonl with the columns file and prompt"
        )
    return [Sample(name, folder / name, line, {}) for name, line in zip(names, lines, strict=True)]


def _of_table(folder: Path, prompts: Path, kind: str) -> list[Sample]:
    if kind not in readers.FILES:
        raise ValueError(f"prompts={prompts}: wanted a file that ends in .{', .'.join(readers.FILES)}")
    rows, _ = readers.FILES[kind](prompts, PROMPT, None)
    samples = []
    for where, text, extra in rows:
        if not text and not extra:
            continue  # an empty line
        name = extra.pop(FILE, None)
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{where}: there is no file name; wanted the columns {FILE} and {PROMPT}, {FILE} as it is "
                f"called below {folder}"
            )
        if not (folder / name).is_file():
            raise ValueError(f"{where}: there is no file {folder / name}")
        samples.append(Sample(name, folder / name, "" if text is None else str(text), extra))
    if not samples:
        raise ValueError(f"prompts={prompts} names no files")
    return samples


def read(path: Path, fps: float | None = None) -> Tensor:
    """Frames uint8 [M, 3, Y, X] as RGB; one for a picture, which stands upright and on white.

    fps: frames a second of a clip, null: all. Raises ValueError when the file cannot be read.
    """
    if path.suffix.lower() not in PICTURES:
        if fps is not None:
            return video_file.read(path, fps=fps).frames
        count = video_file.probe(path).frames
        if not count:
            raise ValueError(f"{path} has no frames")
        return video_file.read(path, indices=range(count)).frames
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
