"""What every record shares: one shape check, row selection, and a file form of safetensors + json.

A field that holds a tensor says its axes once, `tensor("P K R", torch.float64)`; the check, `take`, `split`,
`concatenate`, `save` and `load` all read that declaration, so no record repeats them. An axis letter means
one size throughout a record.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlvis import writing


def tensor(
    axes: str,
    dtype: torch.dtype | None = None,
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
) -> Any:
    """Declare a tensor field.

    axes: letters separated by spaces, `...` last for any further axes. dtype: None takes any but bool.
    default=None: the field may be None. default_factory=dict: the field is a dict of such tensors, keyed by
    name.
    """
    each, optional = default_factory is dict, default is None
    metadata = {"axes": tuple(axes.split()), "dtype": dtype, "each": each, "optional": optional}
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


def rows(axis: str) -> Any:
    """Declare a tuple field with one entry per row of `axis` (texts, metadata)."""
    return dataclasses.field(metadata={"rows": axis})


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(tensor, rows, dataclasses.field)
)
class Record:
    """Base of the frozen, slotted, keyword-only records.

    `row_axis` is the axis that take, split and concatenate act on.
    """

    __slots__ = ()
    row_axis: ClassVar[str]

    def __post_init__(self) -> None:
        check_shapes(self)

    @property
    def rows(self) -> int:
        """Number of rows: the size of `row_axis`; ValueError when no field that is set has that axis."""
        sizes = check_shapes(self)
        if self.row_axis not in sizes:
            raise ValueError(
                f"{type(self).__name__} has no rows: none of its fields has an axis {self.row_axis}"
            )
        return sizes[self.row_axis]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed (and the shapes checked again)."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def take(self, index: Sequence[int] | Tensor) -> Self:
        """The rows at positions `index` (no mask), in that order; fields without the row axis are kept."""
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            raise ValueError(
                f"{type(self).__name__}.take: wanted positions, got a mask; pass mask.nonzero().flatten()"
            )
        picked = torch.as_tensor(index, dtype=torch.long)

        def pick(field: dataclasses.Field[Any], value: Any) -> Any:
            if field.metadata.get("rows") == self.row_axis:
                return tuple(value[i] for i in picked.tolist())
            axis = _row_position(field, self.row_axis)
            if axis is None or value is None:
                return value
            return _each(field, value, lambda t: t.index_select(axis, picked.to(t.device)))

        return self._map(pick)

    def split(self, size: int) -> list[Self]:
        """Consecutive pieces of at most `size` rows; `concatenate` puts them back together."""
        if size < 1:
            raise ValueError(f"{type(self).__name__}.split: the size must be at least 1, got {size}")
        n = self.rows
        return [self.take(range(start, min(start + size, n))) for start in range(0, n, size)]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join rows in order. Fields without the row axis must be equal in all parts."""
        if not parts:
            raise ValueError(f"{cls.__name__}.concatenate: nothing to join, got an empty list")

        def join(field: dataclasses.Field[Any], first: Any) -> Any:
            values = [getattr(p, field.name) for p in parts]
            if field.metadata.get("rows") == cls.row_axis:
                return tuple(item for value in values for item in value)
            axis = _row_position(field, cls.row_axis)
            if axis is None:
                for other in values[1:]:
                    if not _equal(first, other):
                        raise ValueError(
                            f"{cls.__name__}.{field.name} differs between parts: "
                            "they are not pieces of one record"
                        )
                return first
            if any((v is None) != (first is None) for v in values):
                raise ValueError(f"{cls.__name__}.{field.name} is missing in some parts only")
            if first is None:
                return None
            if field.metadata["each"]:
                if any(v.keys() != first.keys() for v in values):
                    raise ValueError(f"{cls.__name__}.{field.name}: the parts have different keys")
                return {key: torch.cat([v[key] for v in values], axis) for key in first}
            return torch.cat(values, axis)

        return parts[0]._map(join)

    def _map(self, change: Any) -> Self:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return type(self)(**{f.name: change(f, getattr(self, f.name)) for f in fields})

    def save(self, path: Path | str) -> None:
        """Write `path`.safetensors (tensors, on the CPU) and `path`.json (everything else)."""
        path = Path(path)
        tensors, plain = _flatten(self)
        with writing.aside(path.with_name(path.name + ".safetensors")) as part:
            save_file(_stand_alone(tensors), part)
        document = {"record": type(self).__name__, "fields": plain}
        writing.text(path.with_name(path.name + ".json"), json.dumps(document, indent=1))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote.

        Raises FileNotFoundError when a file is missing, ValueError when it holds another record.
        """
        path = Path(path)
        side, heavy = (path.with_name(path.name + end) for end in (".json", ".safetensors"))
        for file in (side, heavy):
            if not file.exists():
                raise FileNotFoundError(
                    f"no {cls.__name__} at {path}: {file} does not exist; run the stage that writes it first"
                )
        document = json.loads(side.read_text(encoding="utf-8"))
        if document["record"] != cls.__name__:
            raise ValueError(f"{side} holds a {document['record']}, wanted a {cls.__name__}")
        with safe_open(heavy, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a dict
        record: Self = _unflatten(cls, tensors, document["fields"])
        return record


def check_shapes(record: Any) -> dict[str, int]:
    """Check every tensor field against its axes; return the size of each axis letter.

    Raises ValueError naming the field, the shape wanted and the shape got.
    """
    sizes: dict[str, int] = {}
    source: dict[str, str] = {}
    name = type(record).__name__
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if "rows" in field.metadata:
            _bind(name, field.name, (field.metadata["rows"],), (len(value),), sizes, source)
        if "axes" not in field.metadata or (value is None and field.metadata["optional"]):
            continue
        items = value.items() if field.metadata["each"] else [("", value)]
        for key, item in items:
            label = f"{field.name}[{key!r}]" if key else field.name
            if not isinstance(item, Tensor):
                raise ValueError(f"{name}.{label}: wanted a tensor, got {type(item).__name__}")
            wanted = field.metadata["dtype"]
            if (wanted is not None and item.dtype != wanted) or (wanted is None and item.dtype == torch.bool):
                raise ValueError(f"{name}.{label}: wanted dtype {wanted or 'of numbers'}, got {item.dtype}")
            _bind(name, label, field.metadata["axes"], tuple(item.shape), sizes, source)
    return sizes


def _bind(
    name: str,
    label: str,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    sizes: dict[str, int],
    source: dict[str, str],
) -> None:
    fixed = axes[:-1] if axes[-1] == "..." else axes
    right_rank = len(shape) >= len(fixed) if axes[-1] == "..." else len(shape) == len(fixed)
    wanted = ", ".join(_axis_text(a, sizes) for a in axes)
    if not right_rank:
        raise ValueError(f"{name}.{label}: wanted shape [{wanted}], got {list(shape)}")
    for axis, size in zip(fixed, shape, strict=False):
        expected = int(axis) if axis.isdigit() else _expected(axis, sizes)
        if expected is None:
            sizes[axis], source[axis] = size, label
        elif expected != size:
            origin = "" if axis.isdigit() else f" ({axis} comes from {source.get(axis[0], label)})"
            raise ValueError(f"{name}.{label}: wanted shape [{wanted}]{origin}, got {list(shape)}")


def _expected(axis: str, sizes: dict[str, int]) -> int | None:
    if axis.endswith("+1"):
        return sizes[axis[:-2]] + 1 if axis[:-2] in sizes else None
    return sizes.get(axis)


def _axis_text(axis: str, sizes: dict[str, int]) -> str:
    known = None if axis.isdigit() or axis == "..." else _expected(axis, sizes)
    return axis if known is None else f"{axis}={known}"


def _row_position(field: dataclasses.Field[Any], axis: str) -> int | None:
    axes = field.metadata.get("axes", ())
    return axes.index(axis) if axis in axes else None


def _each(field: dataclasses.Field[Any], value: Any, change: Any) -> Any:
    return {k: change(v) for k, v in value.items()} if field.metadata["each"] else change(value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, Record):
        fields = dataclasses.fields(a)  # type: ignore[arg-type]
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return bool(a.hex() == b.hex())  # NaN is itself, and 0.0 is not -0.0
    return bool(a == b)


def _bytes(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def equal(a: Record, b: Record) -> bool:
    """Whether two records hold the same values bit for bit (same type, dtypes, tensors and plain fields).

    A NaN equals itself, because the scores of samples that are not valid may be NaN; 0.0 and -0.0 differ.
    """
    return _equal(a, b)


def _stand_alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, no two on one storage: safetensors refuses fields that share memory."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        out[key] = value.clone() if storage in seen else value
        seen.add(storage)
    return out


def _flatten(record: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Record):
            inner, rest = _flatten(value)
            tensors |= {f"{field.name}.{k}": v for k, v in inner.items()}
            plain[field.name] = rest
        elif "axes" in field.metadata and field.metadata["each"]:
            if value is not None:
                tensors |= {f"{field.name}.{k}": v for k, v in value.items()}
        elif "axes" in field.metadata:
            if value is not None:
                tensors[field.name] = value
        else:
            plain[field.name] = value
    return tensors, plain


def _unflatten(cls: Any, tensors: dict[str, Tensor], plain: dict[str, Any]) -> Any:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        prefix = field.name + "."
        inner = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if "record" in field.metadata:
            values[field.name] = _unflatten(field.metadata["record"], inner, plain[field.name])
        elif "axes" in field.metadata and field.metadata["each"]:
            values[field.name] = inner
        elif "axes" in field.metadata:
            values[field.name] = tensors.get(field.name)
        else:
            stored = plain[field.name]
            values[field.name] = tuple(stored) if isinstance(stored, list) else stored
    return cls(**values)
