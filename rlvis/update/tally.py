"""Sums and extremes of per-row metrics, as a whole and by transition, reduced over ranks once at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from rlvis.records import Trajectories
from rlvis.runtime import dist

PUBLIC = {
    "ratio_mean": "ratio/mean",
    "clip_high": "clip/fraction_high",
    "clip_low": "clip/fraction_low",
    "approx_kl": "kl/approx",
    "kl_reference": "kl/reference",
    "loss": "update/loss",
}
# What is also kept by transition: the metric -> its name in `PolicyUpdate.details`; both clips are one there.
BY_TRANSITION = {
    "clip_high": "clip_fraction",
    "clip_low": "clip_fraction",
    "loss": "loss",
    "kl_reference": "kl",
}


class Tally:
    """Weighted sums and extremes of metrics [B] over the micro-batches of a training step."""

    def __init__(self, trajectories: Trajectories) -> None:
        self.sums: dict[str, Tensor] = {}
        self.largest: dict[str, Tensor] = {}
        self.count = torch.zeros(())
        sigma = trajectories.schedule.sigma[trajectories.step].double()  # [N, S]; rows may differ in steps
        self.details = {f"transition/{s}/sigma": sigma[:, s].sum() for s in range(sigma.shape[1])}
        self.rows = float(sigma.shape[0])

    def add(self, metrics: dict[str, Tensor], weights: Tensor, s: int, *, first: bool) -> None:
        """Take in metrics [B] of transition s with weights [B]; `first`: of the first optimizer step, where
        the ratio must be 1.
        """
        self.count = self.count + weights.sum()
        for name, value in metrics.items():
            counted = torch.where(weights > 0, value, 0.0)
            if name == "ratio_max_dev":
                most = counted.max()
                self._raise("ratio/max_deviation", most)
                self._raise(f"transition/{s}/ratio_max_deviation", most)
                if first:
                    self._raise("ratio/max_deviation_first", most)
            else:
                total = counted.sum()
                self.sums[name] = self.sums.get(name, total.new_zeros(())) + total
                if name in BY_TRANSITION:
                    key = f"transition/{s}/{BY_TRANSITION[name]}"
                    self.details[key] = self.details.get(key, total.new_zeros(())) + total

    def _raise(self, key: str, value: Tensor) -> None:
        self.largest[key] = torch.maximum(self.largest.get(key, value.new_zeros(())), value)

    def reduce(self, norms: list[float]) -> tuple[dict[str, float], dict[str, float]]:
        """(metric name -> value, detail name -> value), over all ranks."""
        if not self.sums:
            return {}, {}
        names, details, tops = sorted(self.sums), sorted(self.details), sorted(self.largest)
        local = [self.count, *(self.sums[n] for n in names), *(self.details[n] for n in details)]
        flat = torch.stack([value.detach().cpu().double() for value in [*local, torch.tensor(self.rows)]])
        totals = dist.all_reduce(flat, "sum")
        highest = dist.all_reduce(torch.stack([self.largest[n] for n in tops]), "max").tolist()
        means = dict(zip(names, (totals[1 : 1 + len(names)] / totals[0]).tolist(), strict=True))
        # Every transition has an equal share of the count.
        share = totals[0] / sum(name.endswith("/sigma") for name in details)
        inner = {
            name: float(value / (totals[-1] if name.endswith("/sigma") else share))
            for name, value in zip(details, totals[1 + len(names) : -1], strict=True)
        }
        extremes = dict(zip(tops, highest, strict=True))
        metrics = {
            **{PUBLIC[name]: value for name, value in means.items()},
            **{name: value for name, value in extremes.items() if not name.startswith("transition/")},
            "update/grad_norm": sum(norms) / len(norms),
            "update/optimizer_steps": float(len(norms)),
        }
        return metrics, inner | {n: v for n, v in extremes.items() if n.startswith("transition/")}
