"""Which Wan a checkpoint is, and whether the configured task fits it: before and after reading weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvis.schema import Condition, ModelConfig

READER = "WanImageToVideoPipeline"
TOKENS = 512  # of text; fixed in diffusers' attention to a picture


def check_index(config: ModelConfig, index: Mapping[str, Any]) -> None:
    """Refuse what model_index.json shows to be impossible: a frame, no frame, a second guidance.

    Raises ValueError, naming what to type.
    """
    path, second, ratio = config.path, _present(index, "transformer_2"), index.get("boundary_ratio")
    if (ratio is not None) != second:
        raise ValueError(
            f"model.path={path} names boundary_ratio={ratio} and transformer_2={index.get('transformer_2')}; "
            "two experts need both, one denoiser neither: mend its model_index.json"
        )
    if config.cfg_2 is not None:
        _check_cfg_2(config, config.cfg_2, second)
    given = config.condition is Condition.first_frame
    holds = bool(index.get("expand_timesteps"))
    reads = index["_class_name"] == READER and not holds
    if given and not (holds or reads):
        raise ValueError(
            f"model.condition=first_frame needs a checkpoint that starts from a frame, and model.path={path} "
            "makes clips from text alone; type model.condition=none, or another checkpoint: "
            "model.path=Wan-AI/Wan2.2-TI2V-5B-Diffusers, a Wan2.1-I2V or Wan2.2-I2V"
        )
    if reads and not given:
        raise ValueError(
            f"model.path={path} makes clips from a first frame; type model.condition=first_frame and "
            "data=i2v_pairs (or shapes_i2v), or take a T2V checkpoint"
        )


def check_inputs(pipe: Any, config: ModelConfig, reads: bool) -> None:
    """Check that the denoiser takes latents, and a mask and the condition's latents where it reads a frame.

    Raises ValueError with the numbers of channels.
    """
    denoiser, channels = pipe.transformer.config, pipe.vae.config.z_dim
    wanted = 2 * channels + pipe.vae_scale_factor_temporal if reads else channels
    if denoiser.in_channels != wanted:
        also = ", and beside them a mask and the latents of a frame" if reads else ""
        raise ValueError(
            f"model.path={config.path}: its denoiser takes {denoiser.in_channels} channels, and {wanted} "
            f"were expected, for latents of {channels}{also}; choose another model.path"
        )
    if denoiser.image_dim is not None and getattr(pipe, "image_encoder", None) is None:
        raise ValueError(
            f"model.path={config.path}: its denoiser reads an image encoder's output (image_dim="
            f"{denoiser.image_dim}), and there is no image_encoder; add it, or choose another model.path"
        )
    if denoiser.added_kv_proj_dim is not None and config.max_tokens not in (None, TOKENS):
        raise ValueError(
            f"model.max_tokens={config.max_tokens}: the denoiser of model.path={config.path} tells the "
            f"picture from the text by {TOKENS} tokens of text; type model.max_tokens=null"
        )


def _check_cfg_2(config: ModelConfig, cfg_2: float, experts: bool) -> None:
    if not experts:
        raise ValueError(
            f"model.cfg_2={cfg_2} guides a second expert, and model.path={config.path} has one denoiser; "
            "type model.cfg_2=null"
        )
    if not cfg_2 >= 1 or config.cfg == 1:
        raise ValueError(
            f"model.cfg_2={cfg_2} with model.cfg={config.cfg}: wanted cfg_2 of at least 1, and cfg above 1, "
            "since the stock pipeline guides both experts or none; type model.cfg_2=null, or model.cfg=4"
        )


def _present(index: Mapping[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and entry[0] is not None
