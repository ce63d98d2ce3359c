"""The `@tool` decorator: schema and description from the function, validation before it runs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, cast

import anyio
import pytest
from pydantic import BeforeValidator, Field

from engine import ToolContext, ToolOutput, ToolStatus, tool
from engine.errors import ToolDefinitionError
from engine.tools.function import FunctionTool, ToolKeywords


def refuse(value: object) -> object:
    """Refuse anything."""
    raise ValueError(f"not {value}")


def context_of(name: str = "t") -> ToolContext:
    """Return a context as a driver gives it."""
    return ToolContext(
        call_id="c", name=name, arguments={}, idempotency_key="k", timeout_s=1.0, session="s", turn=1
    )  # fmt: skip


def test_schema_and_description_come_from_the_function() -> None:
    """Annotations become the JSON Schema, the first paragraph the description, the context stays out."""

    @tool(effect="read", timeout_s=5)
    async def lookup(
        q: Annotated[str, Field(description="what to look for")],
        context: ToolContext,
        n: int = 3,
        kind: Literal["a", "b"] = "a",
    ) -> str:
        """Look something up
        in the book.

        Not part of the description.
        """
        return q * n + kind + context.name

    assert lookup.spec.name == "lookup"
    assert lookup.spec.description == "Look something up in the book."
    assert lookup.spec.parameters["properties"] == {
        "q": {"type": "string", "title": "Q", "description": "what to look for"},
        "n": {"type": "integer", "title": "N", "default": 3},
        "kind": {"enum": ["a", "b"], "type": "string", "title": "Kind", "default": "a"},
    }
    assert lookup.spec.parameters["required"] == ["q"]
    assert lookup.spec.parameters["additionalProperties"] is False
    assert (lookup.options.effect, lookup.options.timeout_s) == ("read", 5.0)


def test_a_tool_is_still_its_function() -> None:
    """Calling a tool calls the function, without validation or record; its name and docstring are the function's."""

    @tool
    def double(x: int) -> int:
        """Double."""
        return 2 * x

    assert double(21) == 42
    assert (double.spec.name, double.__doc__) == ("double", "Double.")
    assert double.options.effect == "write"
    assert repr(double) == "<tool double (write)>"


def test_arguments_are_validated_and_converted() -> None:
    """Arguments come out as the annotations say; what does not fit is named, every part of it."""

    @tool(effect="read")
    def f(n: int, names: list[str]) -> str:
        return f"{n}{names}"

    assert f.bind({"n": "3", "names": ["a"]}) == {"n": 3, "names": ["a"]}
    with pytest.raises(ValueError, match=r"n: Field required; names\.1: Input should be a valid string") as refused:
        f.bind({"names": ["a", 2], "m": 1})
    assert "m: Extra inputs are not permitted (got 1)" in str(refused.value)


def test_open_ended_functions_take_what_comes() -> None:
    """A function with `**kwargs` takes arguments that it does not name."""

    @tool(effect="read")
    def f(n: int, **rest: str) -> str:
        return f"{n}{rest}"

    assert f.bind({"n": 1, "x": "y"}) == {"n": 1, "x": "y"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"effect": "sometimes"}, "none of read, idempotent, write"),
        ({"timeout_s": 0}, "positive number of seconds"),
        ({"timeout_s": float("inf")}, "positive number of seconds"),
        ({"conflict_key": "{nothing}"}, "format string over x"),
        ({"conflict_key": "{x"}, "format string over x"),
        ({"name": "no spaces"}, "give the tool a name"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    """An option that cannot work is refused where the tool is defined."""

    def f(x: int) -> int:
        return x

    with pytest.raises(ToolDefinitionError, match=says):
        FunctionTool(f, cast(ToolKeywords, options))


def test_annotation_that_cannot_be_resolved_is_refused() -> None:
    """A type known to the type checker only cannot become a schema; the error says where to import it."""

    def f(x: int) -> None:
        """Do nothing."""

    f.__annotations__["x"] = "Nowhere"
    with pytest.raises(ToolDefinitionError, match="outside TYPE_CHECKING"):
        tool(f)


@pytest.mark.anyio
@pytest.mark.parametrize("found", ["it", None])
async def test_probe_tells_what_took_place(found: str | None) -> None:
    """A probe's value is the result of the write, None says that there was none."""

    def probe(x: int) -> str | None:
        return None if found is None else f"{found} {x}"

    @tool(probe=probe)
    async def save(x: int) -> str:
        return "saved"

    assert save.can_probe
    output = await save.probe({"x": 1}, context_of())
    assert output == (None if found is None else ToolOutput("it 1"))


@pytest.mark.anyio
async def test_cancellation_inside_a_tools_own_group_is_passed_on() -> None:
    """A tool whose own task group fails while it is cancelled does not swallow the cancellation."""

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while leaving")

    @tool(effect="read")
    async def busy() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(fail_when_cancelled)
            await anyio.sleep_forever()
        return ""

    outputs: list[ToolOutput] = []
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def run() -> None:
                outputs.append(await busy.run({}, context_of()))

            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    # trio hands both to the tool's caller, asyncio the error alone: the cancellation, or a failure, but never both.
    assert [output.status for output in outputs] in ([], [ToolStatus.FAILED])
    assert scope.cancel_called


def test_validator_that_stumbles_is_named() -> None:
    """A validator of the host's that raises ValueError is a complaint about its argument."""

    @tool(effect="read")
    def f(x: Annotated[int, BeforeValidator(refuse)]) -> int:
        return x

    with pytest.raises(ValueError, match="x: Value error, not 5"):
        f.bind({"x": 5})


class Shop:
    """An object that is called."""

    async def __call__(self, item: str, context: ToolContext) -> str:
        """Sell something."""
        return f"{item} for {context.session}"


async def price(currency: str, item: str, rate: float) -> str:
    """Tell a price."""
    return f"{item} {rate} {currency}"


@pytest.mark.anyio
async def test_partial_is_a_tool_and_what_it_bound_is_the_hosts() -> None:
    """A partial has the name and docstring of its function; no model sees or changes what the host has bound."""
    priced: FunctionTool[..., Any] = tool(partial(partial(price, "EUR"), rate=2.0))
    assert (priced.spec.name, priced.spec.description, priced.is_async) == ("price", "Tell a price.", True)
    assert priced.spec.parameters["required"] == ["item"]
    assert (await priced.run(priced.bind({"item": "tea"}), context_of("price"))).content == "tea 2.0 EUR"
    with pytest.raises(ValueError, match="rate"):
        priced.bind({"item": "tea", "rate": 0.0})


@pytest.mark.anyio
async def test_object_that_can_be_called_is_a_tool() -> None:
    """An object with an async `__call__` is awaited, and gets the context that it asks for."""
    shop: FunctionTool[..., Any] = tool(name="shop")(Shop())
    assert (shop.is_async, shop.spec.parameters["required"]) == (True, ["item"])
    assert (await shop.run(shop.bind({"item": "tea"}), context_of("shop"))).content == "tea for s"
