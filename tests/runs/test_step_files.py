"""What steps leave beside their metrics, in a whole run and after a resume; how a run says that it ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvis import schema as S
from rlvis.runs import exit_state, step_files
from rlvis.runtime.dist import World
from rlvis.training import loop
from tests import setting


def test_a_run_and_its_continuation(sd3_folder: Path, tmp_path: Path) -> None:
    def config(steps: int) -> S.Config:
        return setting.config(
            sd3_folder,
            train={"steps": steps, "micro_batch": 6, "updates_per_step": 1},
            tracker={"samples_every": 2, "samples": 1},
            trust={"kind": "ras"},
            prior={"kind": "constant", "value": 0.5},
        )

    first, again = config(2), config(3)
    first.run_dir, again.resume = str(tmp_path), str(tmp_path)
    first.doctor = again.doctor = S.Doctor.off
    loop.train(first, [])
    loop.train(again, [])
    lines = [json.loads(line) for line in (tmp_path / "details.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [len(line["prompts"]) for line in lines] == [3, 3, 3]
    assert all(line["layers"]["transformer_blocks.1"] > 0 and len(line["transitions"]) == 4 for line in lines)
    trusted = [json.loads(line)["step"] for line in (tmp_path / "trust.jsonl").read_text().splitlines()]
    assert trusted == [1] * 3 + [2] * 3 + [3] * 3
    assert sorted(p.name for p in (tmp_path / "groups").iterdir()) == ["step_000002", "step_000003"]
    index = json.loads((tmp_path / "groups" / "step_000003" / "index.json").read_text())
    shown = [*index["best"], *index["worst"], *(s for g in index["most_trusted"] for s in g["samples"])]
    assert len(index["best"]) == 4
    assert all((tmp_path / "groups" / "step_000003" / sample["file"]).exists() for sample in shown)
    assert index["maps"] == []
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == 0


def test_pictures_are_kept_at_the_steps_of_the_sheets() -> None:
    config = setting.config(Path(), tracker={"samples_every": 5}, train={"steps": 12})
    assert [step for step in range(1, 13) if step_files.keeps_pictures(config, step)] == [5, 10, 12]
    config.tracker.samples_every = 0
    assert not any(step_files.keeps_pictures(config, step) for step in range(1, 13))


def test_how_a_run_ended(tmp_path: Path) -> None:
    def ended() -> dict[str, object]:
        return json.loads((tmp_path / "exit.json").read_text())

    with exit_state.record_exit(tmp_path, World()) as state:
        assert not (tmp_path / "exit.json").exists()
        state.code = 130
    assert ended()["code"] == 130
    with pytest.raises(KeyError), exit_state.record_exit(tmp_path, World()):
        raise KeyError("x" * 5000)
    ending = ended()
    assert (ending["code"], ending["error"]) == (1, "KeyError")
    assert len(str(ending["message"])) == exit_state.LETTERS
    assert any("test_step_files.py" in str(frame) for frame in ending["frames"])  # type: ignore[attr-defined]
    assert not any(str(frame).startswith("/") for frame in ending["frames"])  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt), exit_state.record_exit(tmp_path, World()):
        raise KeyboardInterrupt
    assert ended()["code"] == 130


def test_other_ranks_write_only_when_they_fail(tmp_path: Path) -> None:
    second = World(rank=1, size=2)
    with exit_state.record_exit(tmp_path, second):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="disk"), exit_state.record_exit(tmp_path, second):
        raise OSError("disk")
    assert {p.name for p in tmp_path.iterdir()} == {"exit.rank1.json", "traceback.rank1.txt"}
    with exit_state.record_exit(tmp_path, World()):  # a new start of the first rank clears them
        assert not list(tmp_path.iterdir())
