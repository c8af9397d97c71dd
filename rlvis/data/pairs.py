"""Prompts with a first frame each: a folder of NAME.png and NAME.txt, or a file that names the pictures.

Pictures of any size become frames of the model's: scaled to cover it and cut around the centre, nothing is
stretched. They are read for the prompts of a step, not before; that each exists is checked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvis.data import readers
from rlvis.data.readers import Row, Rows
from rlvis.schema import DataConfig

SOURCE = "i2v_pairs"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def rows(config: DataConfig, path: Path) -> tuple[Rows, Path]:
    """The rows of a folder of pairs or of a file of prompts, and the folder that picture paths start from.

    Raises ValueError for a file of another kind, a picture without a text, or a text without a picture.
    """
    if path.is_dir():
        return (_of_folder(path, config.image), ()), path
    kind = path.suffix[1:].lower()
    if kind not in readers.FILES or kind == "txt":
        raise ValueError(
            f"data.path={path}: pairs are a folder of NAME.png and NAME.txt, or a jsonl, json, csv or "
            f"parquet file with the columns {config.column} and {config.image}"
        )
    keep = None if config.keep is None else [config.image, *(k for k in config.keep if k != config.image)]
    table, left_out = readers.FILES[kind](path, config.column, keep)
    if config.image in left_out:
        raise ValueError(
            f"{path}: column {config.image!r} holds no paths but data of another type; save the pictures as "
            "files and name them in the column"
        )
    return (_named(table, config.image, path.parent), left_out), path.parent


def _of_folder(folder: Path, field: str) -> Iterator[Row]:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    pictures = {p.stem: p for p in files if p.suffix.lower() in PICTURES}
    texts = {p.stem: p for p in files if p.suffix.lower() == ".txt"}
    for have, other, what in ((pictures, texts, "text"), (texts, pictures, "picture")):
        alone = sorted(set(have) - set(other))
        if alone:
            raise ValueError(
                f"{folder}: {len(alone)} of {len(have)} files have no {what} of the same name, the first is "
                f"{have[alone[0]].name}; pairs are NAME.txt with NAME.png, .jpg or .webp"
            )
    for stem, picture in pictures.items():
        try:
            text = texts[stem].read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{texts[stem]}: not UTF-8 ({error.reason}); save it as UTF-8") from error
        yield str(texts[stem]), " ".join(text.split()), {field: picture.name}


def _named(table: Iterator[Row], field: str, base: Path) -> Iterator[Row]:
    for where, text, extra in table:
        if isinstance(text, str) and text.strip():
            if field not in extra:
                readers.need_column(where, field, list(extra), "image")
            name = extra[field]
            if not isinstance(name, str) or not (base / name).is_file():
                raise ValueError(
                    f"{where}: the picture {name!r} is no file (looked at {base / str(name)}); data.image="
                    f"{field} names files beside the data file, or by their whole path"
                )
        yield where, text, extra


def loader(
    base: Path, names: Sequence[dict[str, Any]], field: str, size: tuple[int, int]
) -> Callable[[Sequence[int]], Tensor]:
    """What makes the frames uint8 [P, 3, Y, X] of prompts by position, at `size` (height, width) pixels."""

    def frames(index: Sequence[int]) -> Tensor:
        return torch.stack([picture(base / names[i][field], size) for i in index])

    return frames


def picture(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture file as uint8 [3, Y, X], upright, scaled to cover `size` (height, width), cut at the centre.

    Raises ValueError when it cannot be read.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except OSError as error:
        raise ValueError(f"the picture {path} cannot be read: {error}") from error
    fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)
