"""Somebody's own sequences, checked: numbers over time with a target each.

Whole numbers, texts and booleans are classes, other numbers are values. A target per step or per sequence shows in the
shape of `y`; of a long table, a target that never changes within a sequence is the sequence's.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elmnet.errors import DataError

PARTS = ("train", "valid", "test")
Array = NDArray[Any]
Per = Literal["auto", "sequence", "step"]
UNNAMED = re.compile(r"channel \d+$")  # what channels of arrays are called


@dataclass(frozen=True)
class Sequences:
    """Sequences and their targets, checked."""

    name: str
    sha256: str
    x: NDArray[Any]  # (n, T, channels), zeros past a sequence's length; float64 where float32 would lose what varies
    lengths: NDArray[np.int64]  # (n,)
    y: Array | None  # classes (n,) or (n, T); values (n, k) or (n, T, k), NaN past a sequence's length
    per_step: bool
    classes: bool
    """Whether targets are classes, not values."""
    ids: Array  # (n,), what the file calls them
    channels: tuple[str, ...]
    values: tuple[str, ...] = ()
    """Names of the values to tell, where the file has several."""
    steps: Array | None = None  # (n, T), what the file calls them
    split: NDArray[np.str_] | None = None
    group: Array | None = None  # (n,)

    def __len__(self) -> int:
        return len(self.x)

    def place(self, i: int, t: int | None = None) -> str:
        """A sequence, or a step of it, as the file calls it."""
        return _place(self.ids, self.steps, i, t)

    def arranged(self, channels: Sequence[str], values: Sequence[str]) -> "Sequences":
        """The same with channels and values in the order of these names, if both have names.

        Raises:
            DataError: the names are others.
        """
        x = self.x[:, :, _order(self.name, "channel", self.channels, channels)]
        if self.y is None or self.classes:
            return replace(self, x=x, channels=tuple(channels))
        y = self.y[..., _order(self.name, "value", self.values, values)]
        return replace(self, x=x, y=y, channels=tuple(channels), values=tuple(values))


def _order(file: str, what: str, own: Sequence[str], wanted: Sequence[str]) -> Any:
    """Where each wanted name is; as it is where one side has no names.

    Raises:
        DataError: a name is on one side alone.
    """
    named = [names and not UNNAMED.match(names[0]) for names in (own, wanted)]
    if not all(named) or tuple(own) == tuple(wanted):
        return slice(None)
    for name in wanted:
        if name not in own:
            raise DataError(f"{file}: has no {what} {name!r}, which the model was trained on; it has {', '.join(own)}")
    for name in own:
        if name not in wanted:
            raise DataError(f"{file}: the model was not trained on its {what} {name!r}, but on {', '.join(wanted)}")
    return [list(own).index(name) for name in wanted]


def _place(ids: Array, steps: Array | None, i: int, t: int | None = None) -> str:
    where = "" if t is None else f", step {t if steps is None else steps[i, t]}"
    return f"sequence {ids[i]}{where}"


def plain(column: Array) -> Array:
    """A column without Python objects: texts as numpy strings, bytes as the text they are.

    Raises:
        DataError: they are none.
    """
    if column.dtype.kind == "O" and any(isinstance(one, bytes | bytearray) for one in column.flat):
        column = np.array([bytes(one) for one in column.flat]).reshape(column.shape)
    if column.dtype.kind == "S":
        try:
            return np.char.decode(column, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"bytes that are no text ({error}); use texts or whole numbers") from None
    return column.astype(np.str_) if column.dtype.kind == "O" else column


def checked(
    x: Array,
    y: Array | None = None,
    lengths: Array | None = None,
    split: Array | None = None,
    group: Array | None = None,
    *,
    name: str = "arrays",
    digest: str | None = None,
    per: Per = "auto",
    ids: Array | None = None,
    channels: Sequence[str] = (),
    value_names: Sequence[str] = (),
    steps: Array | None = None,
    constant: bool = False,
    values: bool = False,
    missing: bool = False,
) -> Sequences:
    """Arrays as sequences, or a DataError that says what is wrong and where.

    Args:
        values: whole numbers in y are values, too.
        constant: y comes from a long table, (n, T) or (n, T, k): where it never changes, it is the sequence's.
        missing: values of steps may be NaN, but not all of a sequence; where one of several is, all are.
    """
    x = _numbers(x, f"{name}: x")
    x = x[:, :, None] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape:
        raise DataError(f"{name}: x must be (n, T, channels) or (n, T), none of them 0, got {x.shape}")
    n, longest, width = x.shape
    lengths = _lengths(lengths, n, longest, name)
    inside = np.arange(longest) < lengths[:, None]
    ids = np.arange(n) if ids is None else ids
    channels = tuple(channels) or tuple(f"channel {i}" for i in range(width))
    if len(set(channels)) < len(channels) or len(channels) != width:
        raise DataError(f"{name}: channels must be {width} different names, got {', '.join(channels)}")
    bad = np.argwhere(~np.isfinite(x) & inside[:, :, None])
    if len(bad):
        i, t, c = bad[0]
        words = f"{name}: {_place(ids, steps, i, t)}, {channels[c]}: {x[i, t, c]}"
        raise DataError(f"{words} (in all {len(bad)} numbers not finite); fill or remove them first")
    x = _narrow(np.where(inside[:, :, None], x, 0), inside, name)
    per_step = classes = False
    if y is not None:
        y = plain(np.asarray(y))
        y = y.astype(np.float64) if values and y.dtype.kind in "iub" else y
        y, per_step, classes = _targets(y, inside, per, constant, missing, name, lambda i, t: _place(ids, steps, i, t))
        told = 0 if classes else y.shape[-1]
        if value_names and (len(set(value_names)) < len(value_names) or len(value_names) != told):
            raise DataError(f"{name}: values must name the {told} values of y, got {', '.join(value_names)}")
    if split is not None:
        split = plain(np.asarray(split))
        if split.shape != (n,) or not np.isin(split, PARTS).all():
            words = ", ".join(map(str, np.unique(split)[:10]))
            raise DataError(f"{name}: split must be {n} of train, valid, test, got {split.shape} of {words}")
        split = split.astype(np.str_)
    if group is not None:
        group = plain(np.asarray(group))
        if group.shape != (n,) or group.dtype.kind not in "iubU":
            raise DataError(f"{name}: group must be {n} whole numbers or texts, got {group.shape} of {group.dtype}")
    digest = digest or _digest(x, y, lengths, split, group)
    names = tuple(value_names)
    return Sequences(name, digest, x, lengths, y, per_step, classes, ids, channels, names, steps, split, group)


def _digest(*arrays: Array | None) -> str:
    """Of everything the arrays hold."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _narrow(x: NDArray[np.float64], inside: Array, name: str) -> NDArray[Any]:
    """In float32, unless that would round away what varies: a small change of a large number, as of times."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = x.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise DataError(f"{name}: x holds numbers too large for float32")
    lost, varies = np.abs(narrow - x).max((0, 1)), x[inside].std(0)
    return narrow if (lost <= 1e-4 * varies).all() else x


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise DataError(f"{what} must hold numbers, got {array.dtype}")
    return array.astype(np.float64)


def _lengths(lengths: Array | None, n: int, steps: int, name: str) -> NDArray[np.int64]:
    if lengths is None:
        return np.full(n, steps)
    lengths = np.asarray(lengths)
    if lengths.shape != (n,) or lengths.dtype.kind not in "iu":
        raise DataError(f"{name}: lengths must be {n} whole numbers, got {lengths.shape} of {lengths.dtype}")
    if lengths.min() < 1 or lengths.max() > steps:
        raise DataError(f"{name}: lengths must lie in 1..{steps}, got {lengths.min()}..{lengths.max()}")
    return lengths.astype(np.int64)


def _targets(
    y: Array,
    inside: Array,
    per: Per,
    constant: bool,
    missing: bool,
    name: str,
    place: Callable[[int, int | None], str],
) -> tuple[Array, bool, bool]:
    """Targets, whether each step has its own, whether they are classes."""
    n, steps = inside.shape
    if y.dtype.kind not in "iufbUS":
        raise DataError(f"{name}: y must hold numbers or texts, got {y.dtype}")
    classes = y.dtype.kind != "f"
    shapes = [(n,), (n, steps)] if classes else [(n,), (n, steps), (n, "k"), (n, steps, "k")]
    fits = y.shape[:1] == (n,) and (y.ndim == 1 or y.shape[:2] == (n, steps) or (y.ndim == 2 and not classes))
    if not fits or 0 in y.shape or y.ndim > (2 if classes else 3):
        words = " or ".join(str(shape).replace("'", "") for shape in shapes)
        whole = y.dtype.kind in "iu" and y.ndim > 1 and len(y) == n
        hint = "; whole numbers are classes, store values as floats" if whole else ""
        raise DataError(f"{name}: y of {'classes' if classes else 'values'} must be {words}, got {y.shape}{hint}")
    per_step = y.ndim > 1 and y.shape[1] == steps and (per == "step" or not (per == "sequence" and y.ndim == 2))
    if constant and per != "step":
        first = y[:, :1]
        never = bool(((y == first).reshape(n, steps, -1).all(2) | ~inside).all())
        if per == "sequence" and not never:
            raise DataError(f"{name}: the target changes within a sequence; options.per=step")
        if never:
            y, per_step = y[:, 0], False
    elif classes and per == "sequence" and y.ndim == 2:
        raise DataError(f"{name}: options.per=sequence needs a y of ({n},), got {y.shape}")
    elif per == "step" and not per_step:
        raise DataError(f"{name}: options.per=step needs a y of ({n}, {steps}), got {y.shape}")
    if not classes:
        y = y.astype(np.float64).reshape(*(y.shape[:2] if per_step else y.shape[:1]), -1)
        lost = np.isnan(y).any(-1) & inside if per_step else np.zeros(n, dtype=bool)
        bad = ~np.isfinite(y).all(-1) & (inside if per_step else True) & ~(lost & missing)
        if bad.any():
            i, *t = np.argwhere(bad)[0]
            where = place(i, t[0] if per_step else None)
            words = f"the target of {where} is not finite ({int(bad.sum())} in all)"
            raise DataError(f"{name}: {words}{'; options.missing=skip leaves such steps out' if lost.any() else ''}")
        if per_step:
            none = np.flatnonzero(~(inside & ~lost).any(1))
            if len(none):
                raise DataError(f"{name}: {place(none[0], None)} has no target at any step; leave it out")
            y = np.where((inside & ~lost)[:, :, None], y, np.nan)
        if (np.abs(y) > np.finfo(np.float32).max).any():
            raise DataError(f"{name}: y holds numbers too large for float32")
    return y, per_step, classes
