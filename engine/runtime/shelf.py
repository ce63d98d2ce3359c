"""Where predictors are kept: one file for each owner, each with a salt of its own beside it.

An owner is a pair (user, workspace), so nothing that one tenant or workflow teaches can be read off another's. Files
are written when the last open session of an owner is closed and enough is new, when an owner makes room for another,
and when the engine ends: never while a turn of its runs. A crash loses what was learned since; `agent-engine predict
learn` gets it back from the journal. Files are read and written in threads. May import anyio, predict, errors and log.
Must never write over a file that it cannot read, and never fail a session: trouble is logged, learning goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from zlib import compress, decompress

import anyio
import anyio.to_thread

from ..errors import PredictorRefused, UsageError
from ..log import logger
from ..predict import Predictor, PredictorSettings

SAVE_AFTER = 256
"""Decisions that are new before closing a session writes a file: one takes some 20 ms."""

UNPACKED = 4
"""Predictors without a session that stay as they are, those used last; the others are packed: packing takes some 40 ms.
"""

MAX_NAMES = 100
"""Names that are tried for one owner before learning stays in memory."""

_SALT_BYTES = 16


class Owner(NamedTuple):
    """Whose sessions are learned together."""

    user: str | None = None
    workspace: str | None = None


def file_of(folder: Path, owner: Owner) -> Path:
    """Return the file of an owner. It is named by a digest: a name could leave the folder, or be read by others."""
    digest = blake2b(json.dumps(owner).encode(), digest_size=8).hexdigest()
    return folder / f"{digest}.json"


def salt_of(path: Path, *, create: bool = True) -> bytes:
    """Return the salt that is kept beside a predictor's file, as `<file>.salt`.

    Args:
        path: the predictor's file.
        create: whether to make one where there is none; otherwise it is empty then.

    Raises:
        PredictorRefused: what stands there is no salt.
        OSError: it can be neither read nor written.
    """
    beside = path.with_name(f"{path.name}.salt")
    try:
        text = beside.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _new_salt(beside) if create else b""
    except UnicodeDecodeError:
        text = ""
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) < _SALT_BYTES:
        raise PredictorRefused(str(path), f"its salt {beside.name} is damaged")
    return salt


def _new_salt(beside: Path) -> bytes:
    salt = os.urandom(_SALT_BYTES)
    beside.parent.mkdir(parents=True, exist_ok=True)
    # For nobody else's eyes: who has the salt can guess arguments from their digests.
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(salt.hex())
    return salt


def load(path: Path, *, arguments: bool = False) -> Predictor:
    """Return the predictor of a file with the salt beside it; an empty one where there is no file.

    Raises:
        PredictorRefused: the file, or its salt, cannot be used here; neither was touched.
        OSError: it cannot be read.
    """
    settings = PredictorSettings(salt=salt_of(path), arguments=arguments)
    try:
        return Predictor.load(path, settings)
    except FileNotFoundError:
        return Predictor(settings)


class _Kept:
    """A predictor in memory, the file it belongs to (None: it cannot be kept), and how many sessions use it.

    One that nobody uses may be packed.
    """

    def __init__(self, predictor: Predictor, path: Path | None) -> None:
        self._predictor: Predictor | bytes = predictor
        self._settings = predictor.settings
        self.path = path
        self.sessions = 0
        self.saved = self._observations = predictor.observations

    @property
    def predictor(self) -> Predictor:
        """The predictor, unpacked."""
        return self.unpack()

    @property
    def packed(self) -> bool:
        """Whether it lies packed."""
        return isinstance(self._predictor, bytes)

    def unpack(self) -> Predictor:
        """Return the predictor; one that was packed stays unpacked."""
        if isinstance(self._predictor, bytes):
            self._predictor = Predictor.unpack(decompress(self._predictor), self._settings)
        return self._predictor

    def pack(self) -> None:
        """Let it take little room until it is used again."""
        if not isinstance(self._predictor, bytes):
            self._observations = self._predictor.observations
            self._predictor = compress(self._predictor.pack(), 1)

    @property
    def unsaved(self) -> int:
        """How many decisions the file does not hold."""
        if self.path is None:
            return 0
        known = self._observations if isinstance(self._predictor, bytes) else self._predictor.observations
        return known - self.saved


class Shelf:
    """Hands out the predictor of each owner.

    Args:
        folder: where the files are; made when it is first needed.
        max_predictors: how many are kept in memory. Those of open sessions stay; the others leave, least recently used
            first.
        arguments: see `PredictorSettings`.

    Raises:
        UsageError: the bound is smaller than 1.
    """

    def __init__(self, folder: Path, max_predictors: int, *, arguments: bool = False) -> None:
        if max_predictors < 1:
            raise UsageError(f"max_predictors is {max_predictors}; it has to be 1 or more")
        self._folder = folder
        self._max_predictors = max_predictors
        self._arguments = arguments
        self._kept: dict[Owner, _Kept] = {}
        # Nobody gets a predictor while one is being written: a session would change it under the writer's hands.
        self._lock = anyio.Lock()

    async def take(self, owner: Owner) -> Predictor:
        """Return the predictor of an owner, for one more session."""
        async with self._lock:
            kept = self._kept.get(owner)
            if kept is None:
                kept = await anyio.to_thread.run_sync(self._load, owner)
            else:
                if kept.packed:
                    await anyio.to_thread.run_sync(kept.unpack)
                # Those used last stand last.
                del self._kept[owner]
            self._kept[owner] = kept
            idle = [other for other, it in self._kept.items() if not it.sessions and it is not kept]
            surplus = max(0, len(self._kept) - self._max_predictors)
            for other in idle[:surplus]:
                await _save(self._kept[other])
                del self._kept[other]
            for other in idle[surplus:-UNPACKED]:
                if not self._kept[other].packed:
                    await anyio.to_thread.run_sync(self._kept[other].pack)
            kept.sessions += 1
            return kept.predictor

    async def put_back(self, owner: Owner) -> None:
        """Tell that a session of an owner is closed. After the last one there is time to forget and to write."""
        async with self._lock:
            kept = self._kept[owner]
            kept.sessions -= 1
            if not kept.sessions and kept.unsaved >= SAVE_AFTER:
                await anyio.to_thread.run_sync(kept.predictor.decay)
                await _save(kept)

    async def aclose(self) -> None:
        """Write whatever is new and not in use."""
        async with self._lock:
            for kept in self._kept.values():
                if not kept.sessions and kept.unsaved:
                    await _save(kept)

    def _load(self, owner: Owner) -> _Kept:
        for path in self._names(owner):
            try:
                return _Kept(load(path, arguments=self._arguments), path)
            except PredictorRefused as refusal:
                logger.warning("a predictor was refused; learning begins anew under another name", reason=str(refusal))
            except OSError:
                logger.exception("a predictor cannot be read; what is learned will not be kept", path=str(path))
                break
        return _Kept(Predictor(PredictorSettings(salt=os.urandom(_SALT_BYTES), arguments=self._arguments)), None)

    def _names(self, owner: Owner) -> Iterator[Path]:
        first = file_of(self._folder, owner)
        yield first
        for number in range(2, MAX_NAMES + 1):
            yield first.with_suffix(f".{number}.json")


async def _save(kept: _Kept) -> None:
    if kept.path is None or not kept.unsaved:
        return
    try:
        predictor = await anyio.to_thread.run_sync(kept.unpack)
        await anyio.to_thread.run_sync(predictor.save, kept.path)
        kept.saved = predictor.observations
    except (PredictorRefused, OSError):
        logger.exception("a predictor could not be written; it stays in memory", path=str(kept.path))
