"""Public test support: checks, a conformance suite for journals, fakes, virtual time. May import anything.

Nothing in the engine imports it. `engine.testing.strategies` is apart because it alone needs hypothesis, and
`engine.testing.conformance` because a test suite names it as a whole.
"""

from .checks import check_history, check_messages, check_session
from .journals import FailingJournal, HoldingJournal, YieldingJournal
from .recording import Recording, replayed
from .records import chain, read_all, tail_of
from .scheduling import counting_steps, virtual_time

__all__ = [
    "FailingJournal",
    "HoldingJournal",
    "Recording",
    "YieldingJournal",
    "chain",
    "check_history",
    "check_messages",
    "check_session",
    "counting_steps",
    "read_all",
    "replayed",
    "tail_of",
    "virtual_time",
]
