"""Building the terms of a run: names, dotted paths, and kwargs that are checked before anything is scored."""

from pathlib import Path

import pytest
import torch

from rlvis.findings import ConfigError
from rlvis.reward import scorer
from rlvis.reward.contract import Scores
from rlvis.reward.scorer import build
from rlvis.schema import RewardConfig, RewardTerm

IMAGES = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 1, 3, 4, 4)
PROMPTS, METADATA = ["a red circle", "a blue ring"], [{"bonus": 1}, {"bonus": 2}]

USER_MODULE = """
import numpy as np
from rlvis.reward.contract import Scores

def as_list(images, prompts, metadata):
    return [float(len(p)) for p in prompts]

def as_array(images, prompts, metadata, channel=0, *, scale=1.0):
    return images[:, :, channel].float().mean(dim=(1, 2, 3)).numpy() * scale

def as_tensor(images, prompts, metadata):
    return images.double().mean(dim=(1, 2, 3, 4)).requires_grad_()

def as_scores(images, prompts, metadata):
    import torch
    return Scores(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))

def from_metadata(images, prompts, metadata):
    return [None if m["bonus"] == 2 else m["bonus"] / 3 for m in metadata]

def of_tensors(images, prompts, metadata):
    return [image.double().mean().requires_grad_() for image in images]

def text(images, prompts, metadata):
    return "0.5"

def texts(images, prompts, metadata):
    return ["0.5", "0.5"]

def complex_numbers(images, prompts, metadata):
    return np.array([1j, 2j])

def needs(images, prompts, metadata, threshold):
    return [threshold for _ in prompts]

def open_ended(images, prompts, metadata, **options):
    return [options["anything"] for _ in prompts]

def two(images, prompts):
    return [0.0, 0.0]

class Loaded:
    built = 0

    def __init__(self, offset=0.0):
        Loaded.built += 1
        self.offset = offset

    def __call__(self, images, prompts, metadata):
        return [self.offset for _ in prompts]

class NotCallable:
    pass

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A fresh module of a user's scorers on Python's path."""
    name = f"user_rewards_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def term(path: str, weight: float = 1.0, **kwargs: object) -> scorer.Term:
    return build(RewardConfig(terms={"mine": RewardTerm(scorer=path, weight=weight, kwargs=kwargs)}))[0]


def scores(path: str, **kwargs: object) -> Scores:
    return term(path, **kwargs).scorer(IMAGES, PROMPTS, METADATA)


def test_terms_keep_name_order_and_weight() -> None:
    config = RewardConfig(
        terms={"size": RewardTerm("jpeg_compressibility", 0.5), "colour": RewardTerm("coverage", -1)}
    )
    assert [(t.name, t.weight) for t in build(config)] == [("size", 0.5), ("colour", -1.0)]


# Those with weights, or that ask a server, have tests of their own.
WITHOUT = ("checker", "coverage", "intact", "jpeg_compressibility", "jpeg_incompressibility")


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *((name, {}) for name in WITHOUT),
        ("clip", {"path": "asset:tiny_clip"}),
        ("noisy", {"scorer": "coverage"}),
    ],
)
def test_known_names_score(name: str, kwargs: dict[str, str]) -> None:
    config = RewardConfig(terms={"mine": RewardTerm(scorer=name, kwargs=dict(kwargs))})
    result = build(config)[0].scorer(torch.full((2, 1, 3, 32, 32), 128, dtype=torch.uint8), PROMPTS, METADATA)
    assert result.value.shape == (2,)
    assert result.value.dtype == torch.float64
    assert bool(result.valid.all())


@pytest.mark.parametrize(
    ("function", "kwargs", "wanted"),
    [
        ("as_list", {}, [12, 11]),
        ("as_array", {"channel": 1, "scale": 2.0}, [47, 143]),
        ("as_tensor", {}, [23.5, 71.5]),
        ("of_tensors", {}, [23.5, 71.5]),
        ("needs", {"threshold": 0.1}, [0.1, 0.1]),
        ("open_ended", {"anything": 7}, [7, 7]),
        ("Loaded", {"offset": 0.25}, [0.25, 0.25]),
    ],
)
def test_user_function_by_dotted_path(module: str, function: str, kwargs: dict, wanted: list[float]) -> None:
    result = scores(f"{module}.{function}", **kwargs)
    assert result.value.dtype == torch.float64
    assert not result.value.requires_grad
    assert result.value.tolist() == wanted
    assert result.valid.tolist() == [True, True]


def test_none_in_a_list_is_a_sample_that_was_not_judged(module: str) -> None:
    result = scores(f"{module}.from_metadata")
    assert result.valid.tolist() == [True, False]
    assert float(result.value[0]) == 1 / 3
    assert bool(result.value[1].isnan())


def test_scores_pass_through(module: str) -> None:
    assert scores(f"{module}.as_scores").valid.tolist() == [True, False]


def test_a_class_is_constructed_once(module: str) -> None:
    loaded = term(f"{module}.Loaded").scorer
    loaded(IMAGES, PROMPTS, METADATA)
    loaded(IMAGES, PROMPTS, METADATA)
    assert type(loaded.function).built == 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("text", "text returned str, wanted one real number"),
        ("texts", "texts returned list of <U3"),
        ("complex_numbers", "complex_numbers returned ndarray of complex128"),
    ],
)
def test_results_that_are_not_numbers(module: str, function: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        scores(f"{module}.{function}")


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        ("as_array", {"scael": 2}, r"terms\.mine\.kwargs: .* no argument 'scael'; did you mean scale\?"),
        ("as_list", {"x": 2}, r"has no argument 'x'; it takes none"),
        ("as_array", {"images": 2}, r"has no argument 'images'"),
        ("needs", {}, r"missing a required argument: 'threshold'"),
        ("two", {}, r"takes 2 positional arguments; it is called with images, .*; wanted def my_reward\("),
        ("Loaded", {"offst": 1}, r"did you mean offset\?"),
        ("NotCallable", {}, r"instances cannot be called"),
        ("as_lst", {}, r"has nothing called as_lst; did you mean \w+\.as_list\?"),
        ("not_a_function", {}, r"has a int called not_a_function; write def my_reward\("),
    ],
)  # fmt: skip
def test_functions_and_kwargs_that_do_not_fit(module: str, function: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        term(f"{module}.{function}", **kwargs)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("coverge", r"reward\.terms\.mine\.scorer=coverge: did you mean coverage\?"),
        ("no_such_module.f", r"there is no module 'no_such_module' .*PYTHONPATH"),
        ("rlvis.reward.nothing.f", r"there is no module 'rlvis\.reward\.nothing'"),
        ("q s.f", r"scorer=q s\.f: there are aesthetic, .*given as MODULE\.NAME"),
    ],
)
def test_scorers_that_are_not_found(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        term(path)


def test_an_import_error_inside_the_users_module_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user_rewards_broken.py").write_text("import not_installed_anywhere\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not_installed_anywhere") as caught:
        term("user_rewards_broken.f")
    assert str(caught.value).endswith("user_rewards_broken.py:1; type pip install not_installed_anywhere")


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyError('x')", "type('Own', (BaseException,), {})()"])
def test_a_class_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    name = f"user_rewards_{len(raised)}"
    text = f"class Own:\n    def __init__(self):\n        raise {raised}\n    def __call__(self, *a): ...\n"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=rf"scorer={name}.Own cannot be made: .*{name}.py:3$"):
        term(f"{name}.Own")


def test_no_terms() -> None:
    with pytest.raises(ValueError, match=r"no terms.*type reward=NAME"):
        build(RewardConfig())
