"""How a conversation is summarized, as settings. May import core's values."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..core.values import Value


class CompactionSettings(Value):
    """How a conversation is summarized that gets too long for the model.

    Attributes:
        system: the system prompt of the request for a summary.
        request: what stands in that request before the conversation.
        max_tokens: how long a summary may be; it is cut there. At most an eighth of the window, whatever this says.
        keep_messages: how many of the newest messages stay as they are, where the model does not say so itself.
    """

    system: str = "You are a precise summarizer. Output only the summary, nothing else."
    request: str = "Summarize the conversation."
    max_tokens: Annotated[int, Field(ge=1)] = 512
    keep_messages: Annotated[int, Field(ge=1)] = 10
