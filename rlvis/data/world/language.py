"""What the prompts of the shapes world say: a small closed language, parsed without guessing.

A prompt names one to three things (colour, shape, size), perhaps how two of them stand to each other, and
for clips how the thing moves. What it leaves open is None: the renderer fills it in at random and the checker
does not look at it. `kind` tags every prompt, so that clear, underspecified and ambiguous ones can be kept
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.12, 0.12),
    "green": (0.12, 0.66, 0.20),
    "blue": (0.12, 0.26, 0.90),
    "yellow": (0.96, 0.86, 0.12),
    "purple": (0.66, 0.16, 0.84),
    "cyan": (0.12, 0.84, 0.88),
}
BACKGROUND = (0.5, 0.5, 0.5)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "ring")
NOUNS: tuple[str, ...] = (*SHAPES, "shape", "object")
SIZES: tuple[str, ...] = ("small", "large")
COUNTS: dict[str, int] = {"two": 2, "three": 3}
# How two things stand to each other, and how the second then stands to the first.
INVERSE: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
RELATIONS: tuple[str, ...] = tuple(INVERSE)
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS: tuple[str, ...] = ("slowly", "quickly")
# How a path is called where it is not "moving DIRECTION".
PATHS: tuple[str, ...] = ("straight", "circling", "bouncing", "resting")
SPLITS: tuple[str, ...] = ("train", "heldout")
STILL_KINDS: tuple[str, ...] = ("single", "size", "count", "relation", "underspecified", "ambiguous")
CLIP_KINDS: tuple[str, ...] = ("direction", "speed", "path", "underspecified", "ambiguous")
MOST_WORDS = 8  # of any prompt


@dataclass(frozen=True, slots=True)
class Thing:
    """One object that a prompt names; None is left open."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None


@dataclass(frozen=True, slots=True)
class Motion:
    """How the object of a clip moves; direction and speed belong to the straight path. None is left open."""

    path: str | None = None
    direction: str | None = None
    speed: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a prompt asks for. relation: how things[0] stands to things[1]; motion: None for a still image."""

    things: tuple[Thing, ...]
    kind: str
    relation: str | None = None
    motion: Motion | None = None


@lru_cache(maxsize=65536)
def parse(prompt: str) -> Request:
    """What a prompt such as "a red circle left of a blue square" asks for; words may also stand as
    `paraphrase` puts them.

    Raises ValueError naming the prompt when it is not of this world.
    """
    words = prompt.split()
    if prompt == "it moves":
        return Request((Thing(),), "ambiguous", motion=Motion())
    motion, words = _motion(words)
    for relation in RELATIONS:
        inner = relation.split()
        for at in range(1, len(words) - len(inner)):
            if words[at : at + len(inner)] == inner and motion is None:
                first, second = _one(words[:at]), _one(words[at + len(inner) :])
                if first is None or second is None:
                    raise _unread(prompt)
                return Request((first, second), "relation", relation)
    if motion is None and words and words[0] in COUNTS:
        nouns = [word for word in words[1:] if word.endswith("s")]
        thing = _one(["a", *(w.removesuffix("s") if w in nouns else w for w in words[1:])]) if nouns else None
        if thing is None:
            raise _unread(prompt)
        kind = "ambiguous" if thing == Thing() else "count" if _named(thing) else "underspecified"
        return Request((thing,) * COUNTS[words[0]], kind)
    thing = _one(words)
    if thing is None:
        raise _unread(prompt)
    if motion is None:
        if not _named(thing):
            return Request((thing,), "underspecified" if thing.shape else "ambiguous")
        return Request((thing,), "size" if thing.size else "single")
    if motion == Motion() or not _named(thing):
        vague = thing.shape is None and thing.colour is None
        return Request((thing,), "ambiguous" if vague else "underspecified", motion=motion)
    kind = "path" if motion.path != "straight" else "speed" if motion.speed else "direction"
    return Request((thing,), kind, motion=motion)


def paraphrase(prompt: str) -> str | None:
    """The same content in other words of this world; None where it has none.

    A relation is told from the other thing, a motion comes first, a noun before its adjectives, and nouns
    that say nothing stand for each other.

    >>> paraphrase("a red circle left of a blue square")
    'a blue square right of a red circle'
    >>> paraphrase("two small red circles")
    'two circles small red'
    """
    request = parse(prompt)
    if request.relation is not None:
        first, second = prompt.split(f" {request.relation} ")
        return f"{second} {INVERSE[request.relation]} {first}"
    words = prompt.split()
    if request.motion is not None:
        still = _motion(words)[1]
        return None if prompt == "it moves" else " ".join([*words[len(still) :], *still])
    if words[0] == "something":
        return " ".join(["a", *words[1:], "object"])
    *adjectives, noun = words[1:]
    if noun in ("shape", "object"):
        return " ".join(["something", *adjectives]) if not {*adjectives} & {*SIZES} else None
    if noun in ("shapes", "objects"):
        return " ".join([words[0], *adjectives, "objects" if noun == "shapes" else "shapes"])
    return " ".join([words[0], noun, *adjectives]) if adjectives else None


def _named(thing: Thing) -> bool:
    return thing.colour is not None and thing.shape is not None


def _motion(words: list[str]) -> tuple[Motion | None, list[str]]:
    """The motion at the end of a prompt, or at its beginning, and the other words."""
    if words and words[0] in ("moving", *PATHS[1:]):
        named = next((i for i, word in enumerate(words) if word in ("a", "something")), 0)
        words = words[named:] + words[:named]
    if words and words[-1] in PATHS[1:]:
        return Motion(words[-1]), words[:-1]
    if words and words[-1] == "moving":
        return Motion(), words[:-1]
    speed = words[-1] if words and words[-1] in SPEEDS else None
    rest = words[:-1] if speed else words
    if len(rest) > 2 and rest[-2] == "moving" and rest[-1] in DIRECTIONS:
        return Motion("straight", rest[-1], speed), rest[:-2]
    return None, words


def _one(words: list[str]) -> Thing | None:
    """The thing that "a small red circle", "a shape", "something red" or "a red object" names, if it does."""
    if words == ["something"]:
        return Thing()
    if len(words) == 2 and words[0] == "something" and words[1] in COLOURS:
        return Thing(words[1])
    if len(words) < 2 or words[0] != "a":
        return None
    named = words[1:]
    if named[0] in NOUNS:  # "a circle small red"
        named = named[1:] + named[:1]
    *adjectives, noun = named
    if noun not in NOUNS:
        return None
    size = adjectives.pop(0) if adjectives and adjectives[0] in SIZES else None
    colour = adjectives.pop(0) if adjectives and adjectives[0] in COLOURS else None
    return None if adjectives else Thing(colour, noun if noun in SHAPES else None, size)


def _unread(prompt: str) -> ValueError:
    return ValueError(
        f"cannot read the prompt {prompt!r}: the shapes world knows 'a [SIZE] COLOUR SHAPE', 'two SHAPEs', "
        "'THING left of THING', 'something COLOUR', and for clips 'THING moving DIRECTION [SPEED]'; COLOUR "
        f"is one of {', '.join(COLOURS)}, SHAPE one of {', '.join(SHAPES)}; for example 'a red circle'"
    )


def heldout(colour: str, shape: str) -> bool:
    """Whether this composition is kept from training: one shape of every colour."""
    return SHAPES.index(shape) == list(COLOURS).index(colour) % len(SHAPES)


def split_of(request: Request) -> str:
    """The side of a request: "heldout" when any of its things is a held-out composition.

    Prompts without a whole composition ("a circle", "two objects") are on the training side.
    """
    pairs = [(thing.colour, thing.shape) for thing in request.things]
    return "heldout" if any(c and s and heldout(c, s) for c, s in pairs) else "train"


def prompts(
    split: str | None = None, *, clips: bool = False, kinds: tuple[str, ...] | None = None
) -> list[str]:
    """All prompts of the world in a fixed order, still ones or those of clips.

    Args: split, "train", "heldout" (disjoint by composition of colour and shape) or None for both; kinds, a
    selection of STILL_KINDS (CLIP_KINDS for clips), None for all. Raises ValueError on another name.
    """
    known = CLIP_KINDS if clips else STILL_KINDS
    if split is not None and split not in SPLITS:
        raise ValueError(
            f"the shapes world has no split {split!r}: choose one of {', '.join(SPLITS)}, "
            "or None for all prompts"
        )
    wrong = [kind for kind in kinds or () if kind not in known]
    if wrong:
        raise ValueError(
            f"the shapes world has no kind {', '.join(wrong)} here: choose from {', '.join(known)}"
        )
    texts = _clip_texts() if clips else _still_texts()
    return [
        text
        for text in texts
        if (split is None or split_of(parse(text)) == split) and (kinds is None or parse(text).kind in kinds)
    ]


def _still_texts() -> list[str]:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    texts = [f"a {c} {s}" for c, s in pairs]
    texts += [f"a {size} {c} {s}" for c, s in pairs for size in SIZES]
    texts += [f"{count} {c} {s}s" for c, s in pairs for count in COUNTS]
    # Two partners and two relations for each first thing, other in colour and in shape, spread evenly.
    for i, (c, s) in enumerate(pairs):
        for j in range(2):
            other = _other(tuple(COLOURS), c, i + 2 * j)
            shape = _other(SHAPES, s, i // len(SHAPES) + j)
            texts.append(f"a {c} {s} {RELATIONS[(i + 2 * j) % 4]} a {other} {shape}")
    texts += [f"a {s}" for s in SHAPES]
    texts += [f"{count} {s}s" for s in SHAPES for count in COUNTS]
    texts += ["a shape", "something", "a small shape", "a large shape"]
    texts += [f"something {c}" for c in COLOURS]
    texts += [f"{count} {noun}s" for count in COUNTS for noun in ("shape", "object")]
    return texts


def _other(names: tuple[str, ...], name: str, which: int) -> str:
    """One of the other names, the same for equal `which`."""
    return names[(names.index(name) + 1 + which % (len(names) - 1)) % len(names)]


def _clip_texts() -> list[str]:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    texts = [f"a {c} {s} moving {d}" for c, s in pairs for d in DIRECTIONS]
    for i, (c, s) in enumerate(pairs):
        d = list(DIRECTIONS)
        texts += [f"a {c} {s} moving {d[(i + i // 4 + j) % 4]} {SPEEDS[j]}" for j in range(2)]
    texts += [f"a {c} {s} {path}" for c, s in pairs for path in PATHS[1:]]
    texts += [f"a {s} moving {d}" for s in SHAPES for d in DIRECTIONS]
    texts += [f"a {c} {s} moving" for c, s in pairs[::3]]
    texts += ["it moves", "a shape moving", "something moving"]
    texts += [f"something {c} moving" for c in COLOURS]
    return texts
