"""What Wan's image-to-video denoisers read of the first frame: a mask, latents, a picture's embedding.

Every position of the clip moves; the frame is an input beside the noisy latents. Wan2.1-I2V reads the frame
through a CLIP image encoder as well, Wan2.2-I2V has none. (Wan2.2-TI2V holds the frame's latents instead.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LATENTS = "condition_latents"  # names among the embeds
IMAGE = "condition_image"


def clip_latents(vae: Any, frame: Tensor, frames: int) -> Tensor:
    """Mode [1,C,F,H,W] of the autoencoder's code of a clip that is grey (0 of -1..1) behind `frame`.

    frame: uint8 [3,Y,X] on the autoencoder's device. Not normalised.
    """
    clip = torch.zeros(1, 3, frames, *frame.shape[1:], device=frame.device)
    clip[0, :, 0] = frame.float() / 255 * 2 - 1
    code: Tensor = vae.encode(clip).latent_dist.mode()
    return code


def image_embedding(pipe: Any, frame: Tensor) -> Tensor:
    """[1,N,D]: the image encoder's last layer but one, as the stock `encode_image` makes it of a picture.

    frame: uint8 [3,Y,X]. As a picture, because the processor would scale values in 0..1 once more.
    """
    from PIL import Image

    picture = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy())
    embedding: Tensor = pipe.encode_image(picture, pipe.image_encoder.device)
    return embedding


def beside(x: Tensor, latents: Tensor, every: int) -> Tensor:
    """Noisy latents [B,C,F,H,W], a mask of `every` channels, and the condition's latents: [B,2C+every,F,H,W].

    The mask is 1 in the first latent frame: one channel for each of the `every` frames that a latent frame
    stands for.
    """
    rows, _, *grid = x.shape
    mask = x.new_zeros(rows, every, *grid)
    mask[:, :, 0] = 1
    return torch.cat([x, mask, latents], dim=1)
