"""What must hold between the keys of a run itself: its stage, records, folder, name and threads."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.schema import Config, Stage


def run_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with what a run does, where it writes, and what it goes on from."""
    stage = config.stage
    if config.stage not in (Stage.all, Stage.reference) and config.records is None:
        which = "to write to" if config.stage is Stage.rollout else "that another stage or run wrote"
        yield mistake(f"stage={stage} runs alone on saved records and needs a folder {which}", "records=DIR")
    if config.stage is Stage.reference and config.records is not None:
        yield mistake(
            f"records={config.records} does nothing with stage=reference, which keeps its scores in "
            "prior.cache",
            "records=null",
        )
    if config.stage is Stage.all and config.records is not None:
        yield mistake(
            f"records={config.records} does nothing with stage=all",
            "stage=score (or rollout, weigh, build, update), or train.save_records=true to keep the records "
            "of a run",
        )
    if config.stage is not Stage.all and config.resume is not None:
        yield mistake(
            f"resume={config.resume} goes on with a whole run, but stage={stage} runs one stage",
            "resume=null",
        )
    if config.run_dir is not None and config.resume is not None:
        yield mistake(
            f"run_dir={config.run_dir} and resume={config.resume}: a resumed run stays in its folder",
            f"resume={config.run_dir} alone, or run_dir alone for a new run",
        )
    if config.name in (".", "..") or "/" in config.name or "\\" in config.name:
        yield mistake(
            f"name={config.name!r} names a folder below outputs/: wanted text without a slash", "name=my_run"
        )
    if not config.reward.terms:
        yield mistake(
            "the reward has no terms, so there is nothing to train on", "reward=coverage or reward=jpeg"
        )
