"""The language of the shapes world: what prompts ask for, their kinds, and a split by composition."""

import pytest

from rlvis.data.world import language
from rlvis.data.world.language import (
    CLIP_KINDS,
    COLOURS,
    MOST_WORDS,
    SHAPES,
    STILL_KINDS,
    Motion,
    Request,
    Thing,
    heldout,
    parse,
    prompts,
    split_of,
)


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("a red circle", Request((Thing("red", "circle"),), "single")),
        ("a small blue ring", Request((Thing("blue", "ring", "small"),), "size")),
        ("three cyan squares", Request((Thing("cyan", "square"),) * 3, "count")),
        (
            "a red circle left of a blue square",
            Request((Thing("red", "circle"), Thing("blue", "square")), "relation", "left of"),
        ),
        (
            "a green ring above a red circle",
            Request((Thing("green", "ring"), Thing("red", "circle")), "relation", "above"),
        ),
        ("a triangle", Request((Thing(None, "triangle"),), "underspecified")),
        ("two rings", Request((Thing(None, "ring"),) * 2, "underspecified")),
        ("something", Request((Thing(),), "ambiguous")),
        ("something red", Request((Thing("red"),), "ambiguous")),
        ("a large shape", Request((Thing(None, None, "large"),), "ambiguous")),
        ("two objects", Request((Thing(),) * 2, "ambiguous")),
        (
            "a red circle moving left",
            Request((Thing("red", "circle"),), "direction", motion=Motion("straight", "left")),
        ),
        (
            "a red circle moving up slowly",
            Request((Thing("red", "circle"),), "speed", motion=Motion("straight", "up", "slowly")),
        ),
        ("a blue ring resting", Request((Thing("blue", "ring"),), "path", motion=Motion("resting"))),
        ("a blue ring moving", Request((Thing("blue", "ring"),), "underspecified", motion=Motion())),
        (
            "a ring moving down",
            Request((Thing(None, "ring"),), "underspecified", motion=Motion("straight", "down")),
        ),
        ("it moves", Request((Thing(),), "ambiguous", motion=Motion())),
    ],
)
def test_a_prompt_is_read_as_it_says(prompt: str, request_: Request) -> None:
    assert parse(prompt) == request_


@pytest.mark.parametrize("clips", [False, True])
def test_every_prompt_has_a_kind_and_fits_the_tokens(clips: bool) -> None:
    texts = prompts(clips=clips)
    assert len(set(texts)) == len(texts)
    assert {parse(text).kind for text in texts} == set(CLIP_KINDS if clips else STILL_KINDS)
    assert all((parse(text).motion is not None) == clips for text in texts)
    assert max(len(text.split()) for text in texts) <= MOST_WORDS
    for kind in CLIP_KINDS if clips else STILL_KINDS:
        chosen = prompts(clips=clips, kinds=(kind,))
        assert chosen == [text for text in texts if parse(text).kind == kind]


@pytest.mark.parametrize("clips", [False, True])
def test_the_split_is_disjoint_and_complete_by_composition(clips: bool) -> None:
    train, held = prompts("train", clips=clips), prompts("heldout", clips=clips)
    assert not set(train) & set(held)
    assert set(train) | set(held) == set(prompts(clips=clips))

    def compositions(texts: list[str]) -> set[tuple[str, str]]:
        things = [thing for text in texts for thing in parse(text).things]
        return {(t.colour, t.shape) for t in things if t.colour and t.shape}

    assert not any(heldout(*pair) for pair in compositions(train))
    assert {pair for pair in compositions(held) if heldout(*pair)} == {
        (colour, shape) for colour in COLOURS for shape in SHAPES if heldout(colour, shape)
    }
    assert {colour for colour, _ in compositions(train)} == set(COLOURS)
    assert {shape for _, shape in compositions(train)} == set(SHAPES)
    assert all(split_of(parse(text)) == "heldout" for text in held)


@pytest.mark.parametrize(
    "prompt",
    [
        "a pink circle",
        "a red blob",
        "red circle",
        "two red circle",
        "four red circles",
        "a red circle near a blue square",
        "a red circle left of",
        "a red circle moving sideways",
        "moving left",
        "",
        "a red circle !",
    ],
)
def test_a_prompt_of_another_world_is_named(prompt: str) -> None:
    with pytest.raises(ValueError, match="shapes world") as caught:
        parse(prompt)
    assert repr(prompt) in str(caught.value)


def test_another_split_or_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no split 'test'"):
        prompts("test")
    with pytest.raises(ValueError, match="no kind direction here"):
        prompts(kinds=("direction",))


@pytest.mark.parametrize("clips", [False, True])
def test_a_paraphrase_asks_for_the_same(clips: bool) -> None:
    texts = language.prompts(clips=clips)
    said = {text: language.paraphrase(text) for text in texts}
    for text, other in said.items():
        if other is None:
            continue
        asked, again = language.parse(text), language.parse(other)
        assert other != text
        assert len(other.split()) <= language.MOST_WORDS
        if asked.relation is None:
            assert again == asked
        else:
            assert again.things == asked.things[::-1]
            assert again.relation == language.INVERSE[asked.relation]
    assert sum(other is None for other in said.values()) < 0.1 * len(said)  # "a circle", "it moves"


def test_paraphrases_are_no_prompts_of_training() -> None:
    """Where a held-out prompt's other words were trained on, it would be no test of words."""
    trained = set(language.prompts("train"))
    others = [language.paraphrase(text) for text in language.prompts("heldout")]
    assert not trained & {other for other in others if other}
