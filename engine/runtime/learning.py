"""Learning while sessions run: an observer that tells a predictor what their records teach.

The ledger lets a session in when it is opened and out when it is released; in between every durable record comes by. A
session that is opened again begins anew for the predictor. May import core, ports, predict, replay's lessons and the
shelf. Must never do I/O while a turn runs.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from ..core.notices import Notice
from ..core.record import TransitionRecord
from ..core.session import Session
from ..log import logger
from ..predict import Predictor, Situation
from ..replay.lessons import Follower, teach
from .shelf import Owner, Shelf


class _Shelf(Protocol):
    async def take(self, owner: Owner) -> Predictor: ...

    async def put_back(self, owner: Owner) -> None: ...

    async def aclose(self) -> None: ...


class _ForAll:
    """One predictor for everybody, which belongs to the host: it saves it where and when it likes."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def take(self, owner: Owner) -> Predictor:
        return self._predictor

    async def put_back(self, owner: Owner) -> None:
        """Keep nothing."""

    async def aclose(self) -> None:
        """Keep nothing."""


class _Followed(NamedTuple):
    owner: Owner
    predictor: Predictor
    follower: Follower


class Learner:
    """Learns from the sessions of an engine: `Engine(predictor=Learner.beside("runs.db"))`.

    Each pair of `user` and `workspace` has a predictor and a salt of its own, in a folder. Files are written when the
    last open session of such a pair is closed and at least 256 decisions are new, and when the engine ends.

    Args:
        predictors: a folder; or one predictor for all sessions, which the host itself saves.
        max_predictors: how many of a folder are kept in memory beside those of open sessions.
        arguments: whether to learn where arguments come from; see `PredictorSettings`.

    Raises:
        UsageError: the bound is smaller than 1.
    """

    def __init__(
        self, predictors: str | os.PathLike[str] | Predictor, *, max_predictors: int = 64, arguments: bool = False
    ) -> None:
        if isinstance(predictors, Predictor):
            self._shelf: _Shelf = _ForAll(predictors)
        else:
            self._shelf = Shelf(Path(predictors), max_predictors, arguments=arguments)
        self._followed: dict[str, _Followed] = {}

    @classmethod
    def beside(cls, journal: str | os.PathLike[str]) -> Learner:
        """Return a learner over the folder `<journal>.predict`."""
        return cls(f"{os.fspath(journal).rstrip('/')}.predict")

    def predictor(self, session: str) -> Predictor | None:
        """Return the predictor of an open session: ask it under the session's id. None where it is not open."""
        followed = self._followed.get(session)
        return None if followed is None else followed.predictor

    def situation(self, session: str) -> Situation | None:
        """Return what the engine knows about the next decision of an open session; ask its predictor with it."""
        followed = self._followed.get(session)
        if followed is None:
            return None
        followed.predictor.catch_up()
        return followed.follower.situation

    def memory_bytes(self, session: str, tool: str) -> int:
        """Return the most memory that a call of a tool has taken, where that was much; else 0."""
        followed = self._followed.get(session)
        return 0 if followed is None else followed.predictor.heavy.get(tool, 0)

    def decay(self) -> int:
        """Let the predictors of open sessions forget their weakest contexts; return how many that were."""
        predictors = {id(followed.predictor): followed.predictor for followed in self._followed.values()}
        return sum(predictor.decay() for predictor in predictors.values())

    async def enter(self, session: Session) -> None:
        """Follow a session from where it stands."""
        owner = Owner(session.opened.user, session.opened.workspace)
        self._followed[session.id] = _Followed(owner, await self._shelf.take(owner), Follower(session))

    async def leave(self, session: str) -> None:
        """Let go of a session that is released. Idempotent."""
        followed = self._followed.pop(session, None)
        if followed is not None:
            followed.predictor.forget(session)
            await self._shelf.put_back(followed.owner)

    async def aclose(self) -> None:
        """Write what is new."""
        await self._shelf.aclose()

    def on_record(self, record: TransitionRecord) -> None:
        """Learn from a record."""
        followed = self._followed.get(record.session)
        if followed is not None:
            # Learning takes some 0.1 ms a call. It can wait until somebody asks, or nobody is in a hurry.
            followed.predictor.later(partial(_learn, followed, record))

    def on_notice(self, session: str, notice: Notice) -> None:
        """Learn nothing: notices are not recorded."""


def _learn(followed: _Followed, record: TransitionRecord) -> None:
    try:
        for lesson in followed.follower.take(record):
            teach(followed.predictor, record.session, lesson)
    except Exception:
        logger.exception("a predictor could not learn", session=record.session, seq=record.seq)


def as_learner(given: Predictor | Learner | None) -> Learner | None:
    """Return the learner of an engine that was given this."""
    return Learner(given) if isinstance(given, Predictor) else given
