"""What goes over the wire between a training and its scorers: a frame of bytes there, JSON back.

A request is MAGIC, the length of its header (4 bytes, big endian), the header (JSON in UTF-8: prompts and
metadata) and the images as a .npy file of uint8 [B, M, 3, Y, X]. Unusual: everything that the .npy header
claims is compared with the bytes that are there before an array is built, and nothing is ever unpickled. An
answer holds null where a number is not finite, because JSON has no other word for it.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from rlvis.reward.contract import Scores

MAGIC = b"RLVIS\x00\x01\n"
LENGTH = struct.Struct(">I")
MAX_HEADER = 16 * 2**20  # bytes of prompts and metadata
MAX_NPY_HEADER = 4096  # a true one takes 128
MAX_ROWS = 65536
MEDIA_TYPE = "application/x-rlvis-score"

Request = tuple[Tensor, list[str], list[dict[str, Any]]]


class WireError(ValueError):
    """Bytes that are no request, or no answer, of this protocol: what was wrong with them."""


def encode(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> bytes:
    """A request for the scores of images uint8 [B, M, 3, Y, X] with B prompts and their metadata.

    Raises WireError when sizes do not match or metadata hold what JSON cannot (numpy's numbers and arrays it
    can).
    """
    if images.dtype != torch.uint8 or images.ndim != 5 or not len(images) == len(prompts) == len(metadata):
        raise WireError(
            f"a request wants uint8 images [B, M, 3, Y, X] with B prompts and metadata, got {images.dtype} "
            f"{list(images.shape)}, {len(prompts)} prompts and {len(metadata)} metadata"
        )
    try:
        header = {"prompts": list(prompts), "metadata": list(metadata)}
        head = json.dumps(header, default=_plain).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"the metadata of these prompts cannot be sent as JSON: {error}") from error
    if len(head) > MAX_HEADER:
        raise WireError(f"prompts and metadata take {len(head)} bytes, and a request may have {MAX_HEADER}")
    pixels = np.ascontiguousarray(images.detach().cpu().numpy())
    top = io.BytesIO()
    npy.write_array_header_1_0(top, npy.header_data_from_array_1_0(pixels))
    return b"".join((MAGIC, LENGTH.pack(len(head)), head, top.getvalue(), pixels.reshape(-1).data))


def decode(body: bytearray | bytes) -> Request:
    """Images (sharing memory with `body` where that can be written), prompts and metadata of a request.

    Raises WireError when any part of it is not as `encode` makes it.
    """
    start = len(MAGIC) + LENGTH.size
    if len(body) < start or body[: len(MAGIC)] != MAGIC:
        raise WireError(f"the body ({len(body)} bytes) does not begin as a request of rlvis does")
    (length,) = LENGTH.unpack_from(body, len(MAGIC))
    if length > min(MAX_HEADER, len(body) - start):
        raise WireError(
            f"the header claims {length} bytes; there are {len(body) - start}, and at most {MAX_HEADER} "
            "are read"
        )
    prompts, metadata = _header(bytes(body[start : start + length]))
    offset = start + length
    shape, data = _shape(bytes(body[offset : offset + MAX_NPY_HEADER]))
    offset += data
    if shape[0] != len(prompts):
        raise WireError(f"{shape[0]} images for {len(prompts)} prompts")
    if math.prod(shape) != len(body) - offset:
        raise WireError(
            f"images {list(shape)} are {math.prod(shape)} bytes, and the body holds {len(body) - offset}"
        )
    whole = body if isinstance(body, bytearray) else bytearray(body)
    pixels = np.frombuffer(whole, dtype=np.uint8, offset=offset).reshape(shape)
    return torch.from_numpy(pixels), prompts, metadata


def _header(head: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        fields = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise WireError("the header is not JSON") from error
    if not isinstance(fields, dict) or set(fields) != {"prompts", "metadata"}:
        raise WireError("the header is no JSON object of prompts and metadata alone")
    prompts, metadata = fields["prompts"], fields["metadata"]
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
        raise WireError("prompts are not a list of texts")
    if not isinstance(metadata, list) or not all(isinstance(row, dict) for row in metadata):
        raise WireError("metadata are not a list of objects")
    if not 1 <= len(prompts) == len(metadata) <= MAX_ROWS:
        raise WireError(
            f"{len(prompts)} prompts and {len(metadata)} metadata: wanted as many, 1 to {MAX_ROWS}"
        )
    return prompts, metadata


def _shape(top: bytes) -> tuple[tuple[int, ...], int]:
    """What a .npy header claims, and its length; only C-ordered uint8 of five plausible sizes."""
    stream = io.BytesIO(top)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise WireError("the images are not a .npy file of version 1.0")
        shape, fortran, dtype = npy.read_array_header_1_0(stream, max_header_size=MAX_NPY_HEADER)
    except WireError:
        raise
    except Exception as error:  # numpy parses the header as Python text, which fails in many ways
        raise WireError("the images do not begin as a .npy file does") from error
    if dtype != np.uint8 or fortran:
        raise WireError(f"images of {dtype}{' in Fortran order' if fortran else ''}: wanted uint8 in C order")
    whole = all(isinstance(size, int) and size >= 1 for size in shape)
    if len(shape) != 5 or not whole or shape[2] != 3:
        raise WireError(f"images of shape {str(shape)[:80]}: wanted [B, frames, 3, height, width]")
    return tuple(shape), stream.tell()


def answer(scores: Scores, seconds: float) -> dict[str, Any]:
    """Scores [n] as what JSON holds; seconds: that scoring took. n is the score stage's business.

    Raises WireError when a column is not [n].
    """
    wanted = (len(scores.valid) if scores.valid.ndim else 0,)
    fields: dict[str, Any] = {}
    for name in ("value", "valid", "noise_var", "noise_dof"):
        column = getattr(scores, name)
        if column is None:
            fields[name] = None
            continue
        if tuple(column.shape) != wanted:
            raise WireError(
                f"the scorer's {name} has shape {list(column.shape)}, one for each image is wanted"
            )
        column = column.detach().cpu()
        fields[name] = column.bool().tolist() if name == "valid" else _numbers(column)
    return fields | {"seconds": seconds}


def read_answer(body: bytes) -> Scores:
    """Scores of an answer, NaN for null. Their number is the score stage's business.

    Raises WireError when it is not what `answer` makes of scores [B].
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(f"an answer of {len(body)} bytes that is not JSON") from error
    if not isinstance(fields, dict) or not {"value", "valid"} <= set(fields):
        raise WireError("an answer without value and valid")
    valid = fields["valid"]
    if not isinstance(valid, list) or not all(isinstance(x, bool) for x in valid):
        raise WireError("an answer whose valid is not a list of true and false")
    value = _column(fields, "value", len(valid))
    var, dof = (
        None if fields.get(x) is None else _column(fields, x, len(valid)) for x in ("noise_var", "noise_dof")
    )
    return Scores(value, torch.tensor(valid, dtype=torch.bool), var, dof)


def _column(fields: dict[str, Any], name: str, count: int) -> Tensor:
    column = fields[name]
    real = isinstance(column, list) and all(x is None or type(x) in (int, float) for x in column)
    if not real or len(column) != count:
        raise WireError(f"an answer whose {name} is not a list of {count} numbers, as valid is")
    try:
        return torch.tensor([math.nan if x is None else float(x) for x in column], dtype=torch.float64)
    except OverflowError as error:
        raise WireError(f"an answer with a number in {name} that no float64 holds") from error


def _numbers(column: Tensor) -> list[float | None]:
    """A number each, null where it is not finite."""
    return [x if math.isfinite(x) else None for x in column.to(torch.float64).tolist()]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | Tensor):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")
