"""Statistics of pictures and clips, for what a reward can be fooled with: edges, colours, grids, motion.

Each is one number a sample, from a formula that needs no model, so that a fooled scorer cannot fool it too.
Spatial ones look at the first, middle and last frame. Grids are looked for at full size, everything else on a
copy of at most 256 pixels. Cost on one CPU thread: about 10 ms a picture of 512 x 512.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, SMALL, CELLS = 256, 64, 8  # pixels: of the reduced copy, of clips for motion, of a thumbnail
EDGE = 0.1  # gradient of an edge; 1 is a step from black to white
STRIDES = (2, 4, 8, 16, 32)  # pixels: of patches and autoencoders
NEAR = range(2, 6)  # frequencies on either side of a peak that it is compared with
ROUNDING = 1 / 12 / 255**2  # variance of rounding to 8 bits: less power than that is no peak
PIXELS = 2**22  # looked at together


def statistics(media: Tensor, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Name -> float64 [N] on the CPU; motion needs 2 frames, flicker 3, spectral_peak 32 pixels.

    edge_density     share of pixels whose luma gradient (Sobel) is above EDGE
    colour_entropy   bits, of the histogram of colours at 8 levels a channel: 0 (one colour) to 9
    saturation       mean of max - min over the channels, 0 to 1
    spectral_peak    dB, see `spectral_peak`
    motion_energy    mean |luma difference| of neighbouring frames, 0 to 1
    flicker          mean |second difference in time| / 2 of the brightness of 8 x 8 cells, 0 to 1

    Args:
        media: uint8 [N, M, 3, Y, X].
        device: where to compute; chunks are moved there.

    Raises:
        ValueError: another shape or dtype.
    """
    if media.ndim != 5 or media.shape[2] != 3 or media.dtype != torch.uint8:
        raise ValueError(
            f"pictures are uint8 [N, M, 3, Y, X] with M = 1 for images, got {media.dtype} {list(media.shape)}"
        )
    frames, tall, wide = media.shape[1], media.shape[3], media.shape[4]
    rows = max(1, PIXELS // (frames * tall * wide))
    some = media if len(media) else media.new_zeros(1, *media.shape[1:])  # so that no rows have names too
    parts = [_chunk(part.to(device)) for part in torch.split(some, rows)]
    return {name: torch.cat([part[name].double().cpu() for part in parts])[: len(media)] for name in parts[0]}


def thumbnails(media: Tensor) -> Tensor:
    """First, middle and last frame of uint8 [N, M, 3, Y, X] at CELLS x CELLS pixels: float32 [N, D] in
    [0, 1] on the CPU.
    """
    small = [F.adaptive_avg_pool2d(_unit(frame), CELLS).flatten(1) for frame in _stills(media)]
    return torch.cat(small, 1).cpu()


def width(frames: int) -> int:
    """Values of the thumbnails of a sample of that many frames."""
    return len(_at(frames)) * 3 * CELLS**2


def diversity(thumbs: Tensor, group: Tensor) -> float | None:
    """How far the samples of a group are apart: mean |difference| over all pairs in a group, mean over
    groups; 0 for duplicates. None where no group has two samples.

    Args:
        thumbs: [N, D] in [0, 1], as `thumbnails` makes them.
        group: int [N].
    """
    distances = []
    for g in torch.unique(group).tolist():
        members = thumbs[group == g].double()
        if len(members) > 1:
            distances.append(float(torch.pdist(members, p=1).mean()) / members.shape[1])
    return sum(distances) / len(distances) if distances else None


def spectral_peak(luma: Tensor) -> Tensor:
    """How far the power at a tiling frequency stands above its neighbours, dB: luma [B, Y, X] in [0, 1] ->
    [B].

    Of the power spectrum of rows (Hann window, mean over rows) the power at 1/2, 1/4, 1/8, 1/16 and 1/32
    cycles a pixel over the median of the frequencies 2 to 5 bins away, and the same of columns; the largest
    of all. A picture without a grid has a dB or a few, by chance alone; a faint grid 10, a visible one 20.
    """
    peaks = [peak for lines in (luma, luma.mT) for peak in _peaks(lines)]
    return torch.stack(peaks).amax(0)


def _chunk(media: Tensor) -> dict[str, Tensor]:
    stills = [_of_still(_unit(frame)) for frame in _stills(media)]
    values = {name: torch.stack([one[name] for one in stills]).mean(0) for name in stills[0]}
    count, frames = media.shape[:2]
    if frames > 1:
        rgb = torch.stack([_reduced(_unit(frame), SMALL) for frame in media.unbind(1)], 1)
        luma = _luma(rgb.flatten(0, 1)).reshape(count, frames, *rgb.shape[-2:])
        values["motion_energy"] = luma.diff(dim=1).abs().mean((1, 2, 3))
        if frames > 2:
            cells = F.adaptive_avg_pool2d(luma, CELLS)
            values["flicker"] = cells.diff(n=2, dim=1).abs().mean((1, 2, 3)) / 2
    return values


def _of_still(rgb: Tensor) -> dict[str, Tensor]:
    small = _reduced(rgb, SIDE)
    values = {
        "edge_density": _edges(_luma(small)),
        "colour_entropy": _entropy(small),
        "saturation": (small.amax(1) - small.amin(1)).mean((1, 2)),
    }
    if min(rgb.shape[-2:]) >= 32:
        values["spectral_peak"] = spectral_peak(_luma(rgb))
    return values


def _stills(media: Tensor) -> list[Tensor]:
    return [media[:, m] for m in _at(media.shape[1])]


def _at(frames: int) -> list[int]:
    """First, middle and last frame."""
    return sorted({0, (frames - 1) // 2, frames - 1})


def _unit(frames: Tensor) -> Tensor:
    return frames.float() / 255


def _luma(rgb: Tensor) -> Tensor:
    """Rec. 601 luma [B, Y, X] of [B, 3, Y, X]."""
    return 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]


def _reduced(rgb: Tensor, side: int) -> Tensor:
    """The longer side at `side` pixels at most, by averaging areas."""
    tall, wide = rgb.shape[-2:]
    most = max(tall, wide)
    if most <= side:
        return rgb
    return F.interpolate(rgb, (max(1, tall * side // most), max(1, wide * side // most)), mode="area")


def _edges(luma: Tensor) -> Tensor:
    if min(luma.shape[-2:]) < 3:
        return luma.new_zeros(len(luma))
    smooth, slope = luma.new_tensor([1.0, 2.0, 1.0]) / 4, luma.new_tensor([-1.0, 0.0, 1.0])
    across, down = torch.outer(smooth, slope), torch.outer(slope, smooth)
    slopes = F.conv2d(luma[:, None], torch.stack([across, down])[:, None])
    return (slopes.square().sum(1).sqrt() > EDGE).float().mean((1, 2))


def _entropy(rgb: Tensor) -> Tensor:
    level = (rgb * 8).long().clamp(max=7)
    colour = (level[:, 0] * 64 + level[:, 1] * 8 + level[:, 2]).flatten(1)
    row = torch.arange(len(rgb), device=rgb.device)[:, None] * 512
    count = torch.bincount((colour + row).flatten(), minlength=512 * len(rgb)).view(-1, 512)
    share = count.double() / colour.shape[1]
    entropy: Tensor = torch.special.entr(share).sum(1) / math.log(2)
    return entropy


def _peaks(lines: Tensor) -> list[Tensor]:
    """The peak at each stride along the last axis, [B] each; strides of fewer than 6 periods are left out."""
    size = lines.shape[-1]
    window = torch.hann_window(size, dtype=lines.dtype, device=lines.device)
    windowed = (lines - lines.mean(-1, keepdim=True)) * window
    power = torch.fft.rfft(windowed).abs().square().mean(1) / window.square().sum()
    peaks = []
    for stride in STRIDES:
        at = round(size / stride)
        if at < NEAR[-1] + 1 or (stride == STRIDES[0] and size % 2):
            continue
        around = [k for d in NEAR for k in (at - d, at + d) if k < power.shape[1]]
        usual = power[:, around].median(1).values
        peaks.append(10 * torch.log10((power[:, at] + ROUNDING) / (usual + ROUNDING)))
    return peaks
