"""How an autoencoder decodes: whole, sample by sample (slicing), or in overlapping tiles (tiling).

Tiles save memory and leave seams where they are blended, which a policy can learn; `tile_strides` says where,
and `rlvis.observe.seams` measures. An option that would change nothing is refused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rlvis.schema import ModelConfig


def set_up(autoencoder: Any, config: ModelConfig, rows: int) -> None:
    """Turn model.vae_tiling and model.vae_slicing on, in place.

    rows: samples decoded at once. Raises ValueError where the autoencoder has no such option, or it would do
    nothing: tiles as large as the picture, slices of a single sample.
    """
    for name, wanted in (("tiling", config.vae_tiling), ("slicing", config.vae_slicing)):
        if not wanted:
            continue
        try:
            getattr(autoencoder, f"enable_{name}")()
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"model.vae_{name}=true: the {type(autoencoder).__name__} of model.path={config.path} has no "
                f"{name}; type model.vae_{name}=false"
            ) from error
    if config.vae_slicing and rows == 1:
        raise ValueError(
            f"model.vae_slicing=true does nothing at {config.height} x {config.width} x {config.frames}: "
            "one sample is decoded at a time anyway; type model.vae_slicing=false"
        )
    if config.vae_tiling:
        high, wide = tile_sizes(autoencoder)
        frames = getattr(autoencoder, "tile_sample_min_num_frames", config.frames)
        if config.height <= high and config.width <= wide and config.frames <= frames:
            raise ValueError(
                f"model.vae_tiling=true does nothing at {config.height} x {config.width}: a tile of this "
                f"autoencoder is {high} x {wide} pixels; type model.vae_tiling=false"
            )


def tile_sizes(autoencoder: Any) -> tuple[int, int]:
    """Height and width of a tile in pixels."""
    both = getattr(autoencoder, "tile_sample_min_size", None)
    high, wide = both if isinstance(both, list | tuple) else (both, both)
    high = getattr(autoencoder, "tile_sample_min_height", high)
    wide = getattr(autoencoder, "tile_sample_min_width", wide)
    assert high is not None, f"{type(autoencoder).__name__} has tiles of a size that nobody says"
    assert wide is not None, f"{type(autoencoder).__name__} has tiles of a size that nobody says"
    return int(high), int(wide)


def tile_strides(autoencoder: Any) -> tuple[int, int]:
    """Pixels from the start of a tile to that of the next, down and across: the seams lie there.

    Of diffusers' two families of tiles: those with a stride, and those that overlap by a share.
    """
    if hasattr(autoencoder, "tile_sample_stride_height"):
        return int(autoencoder.tile_sample_stride_height), int(autoencoder.tile_sample_stride_width)
    share = getattr(autoencoder, "tile_overlap_factor", None)
    if share is None:
        down, across = autoencoder.tile_overlap_factor_height, autoencoder.tile_overlap_factor_width
    else:
        down = across = share
    high, wide = tile_sizes(autoencoder)
    return int(high * (1 - down)), int(wide * (1 - across))


def picture(pipe: Any, latents: Tensor) -> Tensor:
    """Latents [B,C,1,H,W] -> [B,1,3,Y,X] in [0, 1], of an autoencoder with a scale and a shift: unscale,
    decode, stock post-processing.
    """
    vae = pipe.vae
    scaled = latents.squeeze(2) / vae.config.scaling_factor + vae.config.shift_factor
    return still(pipe, vae.decode(scaled, return_dict=False)[0])


def still(pipe: Any, decoded: Tensor) -> Tensor:
    """What an autoencoder gave, [B,3,Y,X], after stock post-processing: [B,1,3,Y,X] in [0, 1]."""
    image: Tensor = pipe.image_processor.postprocess(decoded, output_type="pt")
    return image.unsqueeze(1)


def clip(pipe: Any, decoded: Tensor) -> Tensor:
    """The same of clips [B,3,M,Y,X]: [B,M,3,Y,X] in [0, 1]."""
    video: Tensor = pipe.video_processor.postprocess_video(decoded, output_type="pt")
    return video
