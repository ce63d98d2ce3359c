"""Holds many small tables in little memory: those in use as they are, all others packed into bytes.

A context that was not looked at lately lies in one of 512 strings of bytes, found by the last bits of its key, as a
record: key, length, weight, then its symbols as numbers and their counts. Looking at it unpacks it; when too many are
unpacked, those that were not looked at lately are packed again. What is answered, saved or dropped never depends on
which are which. May import the standard library. Must never lose a bit of a count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from struct import Struct, error as StructError  # noqa: N812
from typing import Generic, Protocol, TypeVar

_BUCKETS = 512
_HEADER = Struct("<QHH")
"""Key; bytes that follow, with the highest bit set where they are wide; weight."""

_WIDE = 0x8000
_SCALE = 16
_HEAVIEST = 0xFFFF
"""A weight is told in sixteenths of an observation, up to this."""

_SPARE_NAMES = 1024
"""Names without use that are put up with."""


class Counting(Protocol):
    """A table of counts."""

    @property
    def unit(self) -> float:
        """What one observation weighs."""
        ...

    @property
    def total(self) -> float:
        """The weight of all observations."""
        ...

    @property
    def counts(self) -> dict[str, float]:
        """The weight of the observations of each symbol."""
        ...


V = TypeVar("V", bound=Counting)


class Packed(Generic[V]):
    """Values by 64-bit keys that are as good as random, such as digests.

    Args:
        make: makes a value of its counts, unit and total.
        ready: how many are held ready for use, about.
    """

    def __init__(self, make: Callable[[dict[str, float], float, float], V], ready: int) -> None:
        self._make = make
        self._half = ready // 2
        # Two generations: when the young one is full, the old one is packed and the young one grows old.
        self._young: dict[int, V] = {}
        self._old: dict[int, V] = {}
        self._clear()

    def _clear(self) -> None:
        self._buckets = [b""] * _BUCKETS
        self._cold = 0
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._names_at_most = _SPARE_NAMES

    def __len__(self) -> int:
        return len(self._young) + len(self._old) + self._cold

    @property
    def at_hand(self) -> Callable[[int], V | None]:
        """Looks up the values used last, at once; what it does not have, `get` may. For a few look-ups in a row."""
        return self._young.get

    def get(self, key: int) -> V | None:
        """Return the value of a key, which may be changed; None if there is none."""
        value = self._young.get(key)
        if value is not None:
            return value
        value = self._old.pop(key, None)
        if value is not None:
            self[key] = value
            return value
        place = key % _BUCKETS
        bucket = self._buckets[place]
        # The key stands for itself: to find its bytes by accident is as improbable as two contexts with one key.
        at = bucket.find(key.to_bytes(8, "little"))
        if at < 0:
            return None
        value, end = self._unpack(bucket, at)
        self._buckets[place] = bucket[:at] + bucket[end:]
        self._cold -= 1
        self[key] = value
        return value

    def __setitem__(self, key: int, value: V) -> None:
        """Set the value of a key that has none, or one that `get` has returned not many look-ups ago."""
        # It may have grown old since it was looked up.
        self._old.pop(key, None)
        self._young[key] = value
        if len(self._young) > self._half:
            self._grow_old()

    def items(self) -> Iterator[tuple[int, V]]:
        """Yield everything in the order of the keys; what is packed stays so, and what is yielded of it is a copy."""
        ready = self._ready()
        places = {key: (bucket, at) for bucket in self._buckets for key, _, at, _ in _records(bucket)}
        for key in sorted([*ready, *places]):
            yield key, ready[key] if key in ready else self._unpack(*places[key])[0]

    def values(self) -> Iterator[V]:
        """Yield the values in the order of the keys."""
        return (value for _, value in self.items())

    def keys(self) -> set[int]:
        """Return the keys."""
        return {*self._ready(), *(key for bucket in self._buckets for key, *_ in _records(bucket))}

    def keep_heaviest(self, bound: int, room: float = 0.2) -> int:
        """Drop what weighs least when there is more than `bound`.

        Args:
            bound: how many there may be.
            room: the share of the bound that is freed when anything is, so that this happens rarely.

        Returns:
            How many were dropped.
        """
        if len(self) <= bound:
            return 0
        surplus = len(self) - round(bound * (1 - room))
        weights = [(weight, key) for bucket in self._buckets for key, weight, _, _ in _records(bucket)]
        weights += [(_weight(value), key) for key, value in self._ready().items()]
        dropped = {key for _, key in sorted(weights)[:surplus]}
        self._young = {key: value for key, value in self._young.items() if key not in dropped}
        self._old = {key: value for key, value in self._old.items() if key not in dropped}
        self._buckets = [
            b"".join([bucket[at:end] for key, _, at, end in _records(bucket) if key not in dropped])
            for bucket in self._buckets
        ]
        self._cold = sum(1 for bucket in self._buckets for _ in _records(bucket))
        return surplus

    def _ready(self) -> dict[int, V]:
        return self._young | self._old

    def _grow_old(self) -> None:
        if len(self._names) > self._names_at_most:
            self._renumber()
        for key, value in self._old.items():
            self._buckets[key % _BUCKETS] += self._pack(key, value)
        self._cold += len(self._old)
        self._old, self._young = self._young, {}

    def _renumber(self) -> None:
        """Let go of the names that nothing uses any more."""
        cold = [(key, self._unpack(bucket, at)[0]) for bucket in self._buckets for key, _, at, _ in _records(bucket)]
        self._clear()
        for key, value in cold:
            self._buckets[key % _BUCKETS] += self._pack(key, value)
        self._cold = len(cold)
        self._names_at_most = 2 * len(self._names) + _SPARE_NAMES

    def _pack(self, key: int, value: V) -> bytes:
        unit, total, counts = value.unit, value.total, value.counts
        try:
            numbers = [self._numbers[name] for name in counts]
        except KeyError:
            numbers = [self._number(name) for name in counts]
        count = len(numbers)
        if unit == 1 and type(total) is int and total < _HEAVIEST // _SCALE:
            try:
                body = _narrow(count).pack(*numbers, *counts.values())
                return _HEADER.pack(key, len(body), _weight(value)) + body
            except StructError:
                # A count that was halved is no whole number any more.
                pass
        body = _wide(count).pack(unit, total, *numbers, *counts.values())
        return _HEADER.pack(key, len(body) | _WIDE, _weight(value)) + body

    def _unpack(self, bucket: bytes, at: int) -> tuple[V, int]:
        """Return the value of the record that begins at `at`, and where it ends."""
        _, length, weight = _HEADER.unpack_from(bucket, at)
        at += _HEADER.size
        name_of = self._names.__getitem__
        if length < _WIDE:
            count = length // 4
            row = _narrow(count).unpack_from(bucket, at)
            return self._make(
                dict(zip(map(name_of, row[:count]), row[count:], strict=True)), 1, weight // _SCALE
            ), at + length
        length -= _WIDE
        count = (length - 16) // 12
        unit, total, *rest = _wide(count).unpack_from(bucket, at)
        return self._make(dict(zip(map(name_of, rest[:count]), rest[count:], strict=True)), unit, total), at + length

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number


@cache
def _narrow(count: int) -> Struct:
    return Struct(f"<{2 * count}H")


@cache
def _wide(count: int) -> Struct:
    return Struct(f"<dd{count}I{count}d")


def _weight(value: Counting) -> int:
    return min(_HEAVIEST, int(_SCALE * value.total / value.unit))


def _records(bucket: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield the key and weight of each record, and where it begins and ends."""
    at = 0
    while at < len(bucket):
        key, length, weight = _HEADER.unpack_from(bucket, at)
        end = at + _HEADER.size + (length & ~_WIDE)
        yield key, weight, at, end
        at = end
