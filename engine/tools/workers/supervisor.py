"""The supervisor: forks a worker process, watches the tree below it, ends it, and says how every call went.

One process for each worker of a pool, started by `worker.py` as a fresh interpreter. It runs no code of the host's, has
one thread, and waits for everything in one place: calls, results, prints, ended children, the next look at the tree,
the deadline. When the host's socket closes, the host is dead or wants this worker no more: the whole tree is killed at
once, and this process ends. May import the standard library and its neighbours. Must never wait for the host alone.
"""

from __future__ import annotations

import gc
import os
import select
import selectors
import signal
import socket
from contextlib import suppress
from time import monotonic

from . import tree
from .child import become_worker
from .limits import SAMPLE_S, WorkerLimits
from .outcome import Ending
from .protocol import WorkerCall, outcome_to_json
from .watched import Watched
from .wire import Channel, Frame, Kind, frame, relayed

_CHUNK_BYTES = 65_536
_MAX_READS = 64
"""How often a pipe or socket is read that is to be emptied: more than any buffer holds, and an end where one is filled
without end.
"""


class HostGone(Exception):
    """The host has closed its end, or is dead."""


def main(handle: int, recycle_after: int) -> None:
    """Serve the host behind a socket until it is gone.

    Args:
        handle: descriptor of the socket.
        recycle_after: how many calls a worker process runs before another takes its place.
    """
    # The host decides when this process ends: what a terminal or a service manager sends to everybody goes past it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tree.adopt_orphans()
    # Workers share these pages as long as nobody writes to them, and a collection writes to all.
    gc.collect()
    gc.freeze()
    supervisor = Supervisor(Channel(socket.socket(fileno=handle)))
    try:
        while True:
            supervisor.serve(recycle_after)
    except HostGone:
        supervisor.clear()


class _Worker:
    """A worker process: the channel of its calls and results, and the descriptor of what it prints."""

    def __init__(self, pid: int, channel: Channel, prints: int) -> None:
        self.pid = pid
        self.channel = channel
        self.prints = prints
        self.ended: tree.Ended | None = None
        self.limits: WorkerLimits | None = None


class Supervisor:
    """What a supervisor knows: its host, its worker process, and the call that runs there."""

    def __init__(self, host: Channel) -> None:
        self._host = host
        self._calls: list[Frame] = []
        self._stop = False
        self._worker: _Worker | None = None
        self._watched: Watched | None = None
        self._alone = True
        self._reaped_s = 0.0
        # A byte arrives here whenever a child has ended.
        self._wake, self._wakeup = socket.socketpair()
        self._wake.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, interrupted: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._reap)
        self._selector.register(host.socket, selectors.EVENT_READ, self._hear_host)

    def serve(self, calls: int) -> None:
        """Run up to so many calls in a new worker process; fewer where it does not outlive one, or their limits change.

        Raises:
            HostGone: there is nobody to work for.
        """
        worker = self._start()
        for _ in range(calls):
            while not self._calls:
                self._wait(None)
            call = WorkerCall.from_json(self._calls[0].value)
            # What the kernel was told cannot be taken back.
            if worker.ended is not None or worker.limits not in (None, call.limits):
                break
            worker.limits = call.limits
            if not self._run(worker, call, self._calls.pop(0)):
                break
        self.clear()

    def clear(self) -> None:
        """Kill everything below this process, wait until it is gone, and forget the worker."""
        while not self._alone:
            tree.kill()
            # The end of the last child ends the wait; what may have slipped through is found by the next look.
            select.select([self._wake], [], [], SAMPLE_S)
            self._reap()
        worker, self._worker = self._worker, None
        if worker is not None:
            self._forget(worker.channel.socket)
            self._forget(worker.prints)
            worker.channel.socket.close()
            os.close(worker.prints)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            become_worker(supervisor, theirs, writing)
        theirs.close()
        os.close(writing)
        os.set_blocking(reading, False)
        self._alone = False
        self._worker = _Worker(pid, Channel(ours), reading)
        self._selector.register(ours, selectors.EVENT_READ, self._hear_worker)
        self._selector.register(reading, selectors.EVENT_READ, self._read_prints)
        return self._worker

    def _run(self, worker: _Worker, call: WorkerCall, told: Frame) -> bool:
        """Run one call and tell the host how it ended. Return whether the worker can take another."""
        self._drain_prints()
        before = tree.look()
        self._watched = watched = Watched(call, monotonic(), before.cpu_s + self._reaped_s)
        if self._stop:
            watched.end(Ending.STOPPED)
        else:
            self._send(worker.channel, relayed(Kind.CALL, told.body))
        ending = self._watch(watched, watched.started_s + call.timeout_s)
        if ending in (Ending.TIMED_OUT, Ending.STOPPED):
            watched.ask_to_end()
            tree.ask_to_end()
            self._watch(watched, monotonic() + call.limits.grace_s)
        left = self._look(watched)
        self._drain_prints()
        # Nothing that a call has started outlives it, and what it has left behind must not get into the next one.
        reusable = watched.result is not None and watched.result.kind == Kind.RESULT and left == (worker.pid,)
        if not reusable:
            self.clear()
            self._look(watched)
        self._watched = None
        if watched.result is not None:
            self._send(self._host, relayed(Kind.RESULT, watched.result.body))
        outcome = watched.outcome(ending, worker.ended, monotonic())
        self._send(self._host, frame(Kind.END, outcome_to_json(outcome)))
        return reusable

    def _watch(self, watched: Watched, until: float) -> Ending:
        """Return why the call ends: TIMED_OUT at `until`, or when nothing is left that could end."""
        next_look = now = monotonic()
        while now < until and not self._alone:
            if now >= next_look:
                self._look(watched)
                next_look = now + SAMPLE_S
            if watched.ending is not None:
                return watched.ending
            self._wait(min(next_look, until) - now)
            now = monotonic()
        return watched.ending or Ending.TIMED_OUT

    def _look(self, watched: Watched) -> tuple[int, ...]:
        sample = tree.look()
        watched.looked(sample, self._reaped_s)
        return sample.pids

    def _wait(self, timeout_s: float | None) -> None:
        """Wait until something happens, and take note of it."""
        for key, events in self._selector.select(timeout_s):
            if events & selectors.EVENT_WRITE:
                self._send(self._host if key.fileobj is self._host.socket else self._current.channel, b"")
            if events & selectors.EVENT_READ:
                key.data()

    @property
    def _current(self) -> _Worker:
        assert self._worker is not None
        return self._worker

    def _send(self, channel: Channel, data: bytes) -> None:
        """Send, and wait for room wherever there is something left."""
        channel.send(data)
        key = self._selector.get_map().get(channel.socket)
        if key is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent_bytes else 0)
            self._selector.modify(channel.socket, events, key.data)

    def _forget(self, end: socket.socket | int) -> None:
        with suppress(KeyError):
            self._selector.unregister(end)

    def _hear_host(self) -> None:
        frames = self._host.receive()
        if frames is None:
            raise HostGone
        for item in frames:
            self._stop = item.kind == Kind.STOP
            if not self._stop:
                self._calls.append(item)
            elif self._watched is not None:
                self._watched.end(Ending.STOPPED)

    def _hear_worker(self) -> None:
        channel, watched = self._current.channel, self._watched
        frames = channel.receive()
        if frames is None:
            self._forget(channel.socket)
        if frames is None or watched is None:
            return
        for item in frames:
            if item.kind != Kind.PROGRESS:
                watched.returned(item)
                continue
            watched.reported(len(item.body))
            # A host that does not keep up misses some of it.
            if not self._host.unsent_bytes:
                self._send(self._host, relayed(Kind.PROGRESS, item.body))
        watched.holds(channel.reader.held_bytes)

    def _reap(self) -> None:
        """Take note of the children that have ended."""
        with suppress(BlockingIOError):
            self._wake.recv(_CHUNK_BYTES)
        worker = self._worker
        try:
            for ended in tree.reap():
                self._reaped_s += ended.cpu_s
                if worker is not None and ended.pid == worker.pid:
                    worker.ended = ended
                    self._note_death(worker)
        except ChildProcessError:
            self._alone = True

    def _note_death(self, worker: _Worker) -> None:
        # It may have sent its result and died then: what it has left in the socket comes first.
        for _ in range(_MAX_READS):
            if worker.channel.dry:
                break
            self._hear_worker()
        if self._watched is not None:
            self._watched.end(Ending.DIED)

    def _read_prints(self) -> bool:
        """Take what the worker has printed. Return whether there may be more."""
        prints = self._current.prints
        try:
            data = os.read(prints, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._forget(prints)
        elif self._watched is not None:
            self._watched.printed(data)
        return bool(data)

    def _drain_prints(self) -> None:
        for _ in range(_MAX_READS):
            if not self._read_prints():
                break
