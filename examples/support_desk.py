"""A recorded conversation to look at: tools side by side, an approval, a tool that hangs, and how it went on.

    python examples/support_desk.py

writes `examples/support_desk.jsonl`, the history, and `examples/support_desk.html`, its inspector page. The tools and
the model are played: they take virtual time, so the same run gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio

from engine import Engine, Limits, ModelReply, ToolCall, TransitionRecord, tool
from engine.core.money import Price
from engine.core.values import Usage
from engine.inspect import inspect_page
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.ports import Decision, ModelRequest, ToolOptions
from engine.testing.scheduling import virtual_time

SESSION = "order-4711"
PLACE = Path(__file__).resolve().parent
_START_NS = 1_795_255_200_000_000_000
"""21 November 2026, 10:00 UTC."""


class VirtualClock:
    """Tells the virtual time of the event loop."""

    def time_ns(self) -> int:
        """Return the time of day."""
        return _START_NS + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Return the time since the loop began."""
        return round(anyio.current_time() * 1e6) * 1000


@tool(effect="read", timeout_s=5)
async def find_order(number: int) -> dict[str, Any]:
    """Look an order up."""
    await anyio.sleep(0.183)
    return {"number": number, "item": "walking boots", "paid": "49.90", "parcel": f"XK-{number % 100}"}


@tool(effect="read", timeout_s=5)
async def customer_history(customer: str) -> str:
    """Return what a customer ordered before."""
    await anyio.sleep(0.094)
    return f"{customer}: 7 orders since 2021, none returned"


_tracked: list[str] = []


@tool(effect="read", timeout_s=5)
async def track_parcel(parcel: str) -> str:
    """Ask the carrier where a parcel is."""
    _tracked.append(parcel)
    # The carrier hangs once, on the second parcel.
    await anyio.sleep(3600 if _tracked.count("XK-12") == 1 and parcel == "XK-12" else 0.642)
    return "lost in transit since 14 November" if parcel == "XK-11" else "out for delivery, today before 18:00"


@tool(effect="read", timeout_s=5)
async def refund_rules(country: str) -> str:
    """Return the rules for refunds."""
    await anyio.sleep(0.31)
    return f"{country}: a lost parcel is refunded in full"


@tool(timeout_s=10, conflict_key="order:{order}")
async def refund(order: int, amount: str) -> str:
    """Pay money back."""
    await anyio.sleep(1.27)
    return f"refunded {amount} EUR for order {order}"


@tool(timeout_s=10, conflict_key="mail:{to}")
async def send_mail(to: str, subject: str) -> str:
    """Write to a customer."""
    await anyio.sleep(0.22)
    return f"sent to {to}"


class AskBeforeRefunds:
    """Money goes out only when a person has said so."""

    def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
        """Ask about refunds, allow everything else."""
        del options
        if call.name == "refund":
            return Decision("ask", f"Refund {call.arguments['amount']} EUR?")
        return Decision("allow")


def _calls(place: int, *asked: tuple[str, dict[str, Any]]) -> list[ToolCall]:
    return [ToolCall(id=f"{name}-{place}", name=name, arguments=given) for name, given in asked]


def _script() -> Iterator[ModelReply]:
    yield _reply(
        0, _calls(
            0, ("find_order", {"number": 4711}), ("track_parcel", {"parcel": "XK-11"}),
            ("customer_history", {"customer": "Ada Lindqvist"}),
        ),
    )  # fmt: skip
    yield _reply(
        1, text="Your parcel XK-11 was lost in transit on 14 November. I am sorry. Shall I refund the 49.90 EUR?"
    )
    yield _reply(2, _calls(2, ("refund_rules", {"country": "SE"}), ("refund", {"order": 4711, "amount": "49.90"})))
    yield _reply(3, _calls(3, ("send_mail", {"to": "ada@example.org", "subject": "Your refund for order 4711"})))
    yield _reply(4, text="Done: 49.90 EUR are on their way back to you, and a confirmation is in your mail.")
    yield _reply(5, _calls(5, ("find_order", {"number": 4712}), ("track_parcel", {"parcel": "XK-12"})))
    yield _reply(6, _calls(6, ("track_parcel", {"parcel": "XK-12"})))
    yield _reply(7, text="Your second parcel XK-12 is out for delivery and comes today before 18:00.")


def _reply(place: int, calls: list[ToolCall] | None = None, text: str | None = None) -> ModelReply:
    tokens = 812 + 164 * place
    usage = Usage(input_tokens=tokens, output_tokens=38 + 7 * (place % 3), cached_tokens=768 if place else 0)
    return ModelReply(
        text=text, tool_calls=tuple(calls or ()), finish="tool_calls" if calls else "stop", usage=usage, model="desk-1"
    )


async def record() -> list[TransitionRecord]:
    """Return the history, recorded anew. Needs an event loop with virtual time."""
    script = _script()
    _tracked.clear()

    async def think(request: ModelRequest) -> ModelReply:
        del request
        reply = next(script)
        await anyio.sleep(0.85 if reply.tool_calls else 1.18)
        return reply

    journal, clock = MemoryJournal(), VirtualClock()
    prices = {"desk-1": Price(input="2.50", output="10.00", cached="0.25")}
    async with Engine(
        model=FunctionModel(think),
        tools=[find_order, customer_history, track_parcel, refund_rules, refund, send_mail],
        journal=journal, clock=clock, policy=AskBeforeRefunds(),
        limits=Limits(prices=prices, approval_timeout_s=None),
    ) as engine:  # fmt: skip
        session = await engine.open(SESSION)
        await session.ask("My order 4711 has not arrived. What is going on?")
        await anyio.sleep(35)
        waiting = await session.ask("Yes, please refund it.")
        await anyio.sleep(41)
        await session.answer(waiting.pending[0].id, approve=True, by="mira")
        await anyio.sleep(20)
        await session.ask("And where is my second parcel, order 4712?")
        return [found async for found in session.history()]


def main() -> None:
    """Record the history and write it beside this file, with its page."""
    backend, options = virtual_time("asyncio")
    records = anyio.run(record, backend=backend, backend_options=options)
    history = PLACE / "support_desk.jsonl"
    history.write_text("".join(f"{found.line}\n" for found in records), encoding="ascii")
    (PLACE / "support_desk.html").write_text(inspect_page(records, history.name), encoding="utf-8")
    print(f"{len(records)} records in {history.name}, to be looked at in support_desk.html")


if __name__ == "__main__":
    main()
