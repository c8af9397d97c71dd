"""Where metrics go: metrics.jsonl always, wandb and tensorboard when asked, under the same keys everywhere.

`Trackers` is the one object a run talks to; with nothing in it (every rank but 0) it does nothing. `finish`
belongs in a `finally`: a second wandb run in one process would otherwise be the first one again.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlparse

from rlvis import writing
from rlvis.observe import metric_table
from rlvis.observe.lines import json_number, keep_before, steps
from rlvis.schema import TrackerConfig

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a run tells a tracker."""

    def start(self, config: Mapping[str, Any], run_dir: Path, resume_step: int | None) -> None:
        """config: the resolved configuration as plain values. resume_step: the first step to come, None for a
        new run.
        """

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, path: Path) -> None: ...

    def alert(self, step: int, title: str, text: str) -> None: ...

    def finish(self, exit_code: int) -> None: ...


def build(config: TrackerConfig, *, name: str, main: bool = True) -> Trackers:
    """The trackers of a configuration; none where `main` is false (all ranks but 0)."""
    if not main:
        return Trackers()
    chosen: list[Tracker] = [JsonlTracker()]
    if config.wandb:
        chosen.append(WandbTracker(project=config.project, name=name))
    if config.tensorboard:
        chosen.append(TensorboardTracker())
    return Trackers(chosen)


class Trackers:
    """All trackers of a run as one; refuses keys that the table of metrics does not know."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = tuple(trackers)

    def start(self, config: Mapping[str, Any], run_dir: Path, resume_step: int | None = None) -> None:
        for tracker in self.trackers:
            tracker.start(config, Path(run_dir), resume_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        metric_table.check(metrics)
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def image(self, step: int, name: str, path: Path) -> None:
        for tracker in self.trackers:
            tracker.image(step, name, Path(path))

    def alert(self, step: int, title: str, text: str) -> None:
        """Tell people at once, where a tracker can."""
        for tracker in self.trackers:
            tracker.alert(step, title, text)

    def finish(self, exit_code: int = 0) -> None:
        """Finish every tracker, also those after one that fails; then raise the first failure."""
        failures: list[Exception] = []
        for tracker in self.trackers:
            try:
                tracker.finish(exit_code)
            except Exception as error:
                log.exception("%s could not finish", type(tracker).__name__)
                failures.append(error)
        if failures:
            raise failures[0]


class JsonlTracker:
    """One strict JSON object a step in RUN/metrics.jsonl: {"step": 3, "reward/mean": 0.51, ...}, flushed line
    by line.

    Floats keep all their digits; what JSON has no number for is written as the strings "NaN", "Infinity" and
    "-Infinity", which `float` reads. Pictures need no entry: they lie in the run folder under their step.
    """

    def __init__(self) -> None:
        self.file: IO[str] | None = None

    def start(self, config: Mapping[str, Any], run_dir: Path, resume_step: int | None) -> None:
        path = Path(run_dir) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            keep_before(path, resume_step)
            if resume_step > 1 and all(row["step"] != resume_step - 1 for row in steps(path)):
                log.warning(
                    "%s has no line of step %d, after which the run goes on: its curves will have a gap",
                    path,
                    resume_step - 1,
                )
        elif path.exists() and path.stat().st_size:
            raise ValueError(
                f"{path} already holds the metrics of a run ({path.stat().st_size} bytes), and a new run "
                "would mix with it: resume it with resume=auto or choose another run_dir"
            )
        self.file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self.file is not None, "log before start"
        row = {"step": step, **{key: json_number(value) for key, value in metrics.items()}}
        self.file.write(json.dumps(row, allow_nan=False) + "\n")
        self.file.flush()

    def image(self, step: int, name: str, path: Path) -> None:
        pass

    def alert(self, step: int, title: str, text: str) -> None:
        """The run writes alarms.jsonl."""

    def finish(self, exit_code: int) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class WandbTracker:
    """Weights & Biases: online where a key is set, offline into RUN/wandb elsewhere; WANDB_MODE decides over
    both.

    The run's id is kept in RUN/wandb_run.json, so a resumed run continues the same curves (offline: a second
    folder with the same id, which `wandb sync` joins).
    """

    def __init__(self, *, project: str, name: str) -> None:
        self.project = project
        self.name = name
        self.run: Any = None

    def start(self, config: Mapping[str, Any], run_dir: Path, resume_step: int | None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                "tracker.wandb=true needs wandb, which is not installed: pip install wandb"
            ) from error
        mode: Any = wandb_mode()
        known = Path(run_dir) / "wandb_run.json"
        run_id = json.loads(known.read_text())["id"] if resume_step is not None and known.exists() else None
        run_dir.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.project,
            name=self.name,
            id=run_id,
            resume="allow"
            if run_id and mode == "online"
            else None,  # offline it would only warn; the id is enough
            dir=str(run_dir),
            mode=mode,
            config=dict(config),
            settings=wandb.Settings(
                silent=True, console="off"
            ),  # rlvis has its own log; stdout is left alone
        )
        writing.text(known, json.dumps({"id": self.run.id}) + "\n")
        where = self.run.url if mode == "online" else f"{Path(self.run.dir).parent} (`wandb sync` uploads it)"
        log.info("wandb is %s: %s", mode, where)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        import wandb

        self.run.log({name: wandb.Image(str(path))}, step=step)

    def alert(self, step: int, title: str, text: str) -> None:
        self.run.alert(title=title, text=text, level="WARN")

    def finish(self, exit_code: int) -> None:
        if self.run is not None:
            self.run.finish(exit_code=exit_code)
            self.run = None


class TensorboardTracker:
    """Event files in RUN/tensorboard; on resume, later steps of the interrupted run are purged."""

    def __init__(self) -> None:
        self.writer: Any = None

    def start(self, config: Mapping[str, Any], run_dir: Path, resume_step: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "tracker.tensorboard=true needs tensorboard, which is not installed: pip install tensorboard"
            ) from error
        self.writer = SummaryWriter(str(Path(run_dir) / "tensorboard"), purge_step=resume_step)
        self.writer.add_text("config", f"```json\n{json.dumps(dict(config), indent=2, default=str)}\n```")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def image(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def alert(self, step: int, title: str, text: str) -> None:
        self.writer.add_text("alarms", f"{title}: {text}", step)

    def finish(self, exit_code: int) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def wandb_mode() -> str:
    """WANDB_MODE if it is set; else "online" where a key is found (WANDB_API_KEY, or a netrc entry),
    "offline" elsewhere.

    Only whether there is a key is looked at, never the key.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        entry = None
    return "online" if entry else "offline"
