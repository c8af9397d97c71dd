"""Going on with a run: the newest whole checkpoint is found, settings compared, secrets asked for again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlvis.checkpoints import files, permission, resume
from rlvis.checkpoints.open_run import open_run
from rlvis.compose.command import compose
from rlvis.findings import ConfigError
from rlvis.schema import plain
from tests.whole import alone, checkpoint, settings
from tests.whole import run as whole

pytestmark = pytest.mark.usefixtures("elsewhere")


def cut(folder: Path) -> Path:
    """The same with a checkpoint that was never finished."""
    (folder / "checkpoints" / "step_000003" / "COMPLETE").unlink()
    return folder


def test_auto_takes_the_newest_run_of_the_name_with_a_whole_checkpoint() -> None:
    assert resume.find(settings(resume="auto", name="a")) is None
    whole(Path("outputs/a/2001-01-01_00-00-00"))
    newest = whole(Path("outputs/a/2001-01-02_00-00-00"))
    cut(whole(Path("outputs/a/2001-01-03_00-00-00")))
    whole(Path("outputs/b/2001-01-04_00-00-00"))
    assert resume.find(settings(resume="auto", name="a")) == newest
    with open_run(settings(resume="auto", name="a"), True, alone) as folder:
        assert folder.path == newest
        assert folder.checkpoint == newest / "checkpoints" / "step_000003"


def test_a_whole_checkpoint_is_what_the_checkpoints_module_says() -> None:
    for folder in (whole(Path("a")), cut(whole(Path("b")))):
        assert (
            resume.has_checkpoint(folder)
            == bool(files.whole(folder))
            == (files.search(folder)[0] is not None)
        )


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "no such folder"), ("empty", "no config.yaml"), ("new", "no whole")]
)
def test_a_folder_that_cannot_be_resumed(name: str, message: str) -> None:
    Path("empty").mkdir()
    cut(whole(Path("new")))
    with pytest.raises(ConfigError, match=message):
        resume.find(settings(resume=name))


def test_what_is_not_named_stays_and_what_is_free_changes() -> None:
    before = {"optim": {"lr": 1.0, "eps": 2.0}, "train": {"steps": 5}, "tracker": {"wandb": False}}
    now = {"optim": {"lr": 9.0, "eps": 2.0}, "train": {"steps": 8}, "tracker": {"wandb": True}}
    assert resume.merge_settings(before, now, ["train.steps"]) == before | {"train": {"steps": 8}}
    after = before | {"tracker": {"wandb": True}}
    assert resume.merge_settings(before, now, ["tracker.*", "optim.eps"]) == after
    assert before["train"] == {"steps": 5}


@pytest.mark.parametrize("touched", ["optim.lr", "optim", "optim.*", "*"])
def test_what_is_named_and_matters_is_refused_with_both_values(touched: str) -> None:
    before = {"optim": {"lr": 1.0}, "model": {"lora": None}}
    now = {"optim": {"lr": 9.0}, "model": {"lora": None}}
    with pytest.raises(ConfigError, match=r"optim\.lr was 1\.0 and is now 9\.0\. A resumed run"):
        resume.merge_settings(before, now, [touched])


def test_a_section_that_appears_is_a_change() -> None:
    after = {"model": {"lora": {"rank": 8}}}
    with pytest.raises(
        ConfigError, match=r"model\.lora was null and is now null|model\.lora\.rank was null and is now 8"
    ):
        resume.merge_settings({"model": {"lora": None}}, after, ["model.lora.rank"])


def test_secrets_are_hidden_in_the_folder_and_asked_for_again() -> None:
    words = ["reward.terms.judge.scorer=a.b", "reward.terms.judge.kwargs={api_key: abc, max_tokens: 5}"]
    config = compose(words).typed()
    with open_run(config, True, alone) as folder:
        assert "abc" not in (folder.path / "config.yaml").read_text()
        before = resume.saved_settings(folder.path)
    assert before["reward"]["terms"]["judge"]["kwargs"] == {"api_key": "***", "max_tokens": 5}
    key = "reward.terms.judge.kwargs.api_key"
    with pytest.raises(ConfigError, match=f"{key} was not written"):
        resume.merge_settings(before, plain(settings()), [])
    assert resume.merge_settings(before, plain(config), [key])["reward"] == plain(config)["reward"]


def test_a_key_that_is_gone_is_left_out_of_old_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "sentinels: {kl: 0.01, patience: 3}\nadvantage: {map: {pca_solver: exact}}\n", encoding="utf-8"
    )
    assert resume.saved_settings(tmp_path) == {"sentinels": {"patience": 3}, "advantage": {"map": {}}}


def test_auto_goes_by_the_start_in_utc_not_by_the_name_of_the_folder() -> None:
    for name, started in (("2001-01-01_03-00-00", "2001-01-01T02:00:00"), ("z", "2001-01-01T01:00:00")):
        folder = whole(Path("outputs/a") / name)
        first = {"started": f"{started}+00:00"}
        (folder / "manifest.json").write_text(
            json.dumps({"started": "2002-01-01T00:00:00+00:00", "earlier": [first]})
        )
    assert resume.find(settings(resume="auto", name="a")) == Path("outputs/a/2001-01-01_03-00-00")


def edited(folder: Path, key: str, value: object) -> Path:
    """The same run after somebody wrote another value into its config.yaml."""
    nested = resume.saved_settings(folder)
    permission.put(nested, key, value)
    (folder / "config.yaml").write_text(yaml.safe_dump(nested), encoding="utf-8")
    return folder


def test_settings_that_were_edited_by_hand_are_refused_with_both_values() -> None:
    text = yaml.safe_dump(plain(settings())).encode()
    checkpoint(Path("here"), **{"config.yaml": text})
    Path("here/config.yaml").write_bytes(text)
    assert resume.resume_config(settings(resume="here"), []).optim.lr == settings().optim.lr
    edited(Path("here"), "train.steps", 7)  # what may change at any time
    assert resume.resume_config(settings(resume="here"), []).train.steps == 7
    edited(Path("here"), "optim.lr", 0.25)
    message = rf"here/config\.yaml was changed by hand.*optim\.lr is 0\.25 there and {settings().optim.lr} in"
    with pytest.raises(ConfigError, match=message):
        resume.resume_config(settings(resume="here"), [])
    permission.note_changes(Path("here"), 3, [("optim.lr", settings().optim.lr, 0.25)])
    assert resume.resume_config(settings(resume="here"), []).optim.lr == 0.25
