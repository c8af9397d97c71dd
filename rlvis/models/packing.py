"""FLUX's tokens and the latent grid: (B, h w / 4, 4 C) <-> (B, C, 1, h, w).

FLUX's transformer sees 2 x 2 blocks of latents as tokens of 64 values (16 channels). A ratio, a log-prob or
a map at a
position needs the grid back: per token the four positions of a block are one.
"""

from __future__ import annotations

from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, 1, h, w] -> tokens [B, h/2 * w/2, 4 C], row by row; in a token the channel varies
    slowest.

    Raises ValueError for several frames or an odd side.
    """
    if latents.ndim != 5 or latents.shape[2] != 1 or latents.shape[3] % 2 or latents.shape[4] % 2:
        raise ValueError(f"pack: wanted latents [B, C, 1, h, w] with even h and w, got {list(latents.shape)}")
    b, c, _, h, w = latents.shape
    blocks = latents.reshape(b, c, h // 2, 2, w // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens [B, h/2 * w/2, 4 C] -> latents [B, C, 1, h, w] of `height` h and `width` w, in latent cells.

    Raises ValueError where the number of tokens or their width does not fit.
    """
    even = not (height % 2 or width % 2)
    if tokens.ndim != 3 or not even or tokens.shape[1] * 4 != height * width or tokens.shape[2] % 4:
        raise ValueError(
            f"unpack: wanted tokens [B, {height} * {width} / 4, 4 C] with even sides, got "
            f"{list(tokens.shape)}"
        )
    b, _, width4 = tokens.shape
    blocks = tokens.reshape(b, height // 2, width // 2, width4 // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(b, width4 // 4, 1, height, width)
