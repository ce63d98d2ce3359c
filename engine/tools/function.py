"""Functions as tools: the `@tool` decorator.

The JSON Schema comes from the annotations, the description from the docstring, validation from pydantic. Async
functions run in the event loop, synchronous ones in a thread, either in a process of its own where the tool asks for
it. A parameter annotated `ToolContext` receives the request and stays out of the schema. May import ports, core, errors
and anyio. Must never let an exception of a tool pass as its own.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from copy import copy
from functools import update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NotRequired,
    ParamSpec,
    TypedDict,
    TypeVar,
    cast,
    get_type_hints,
    overload,
)  # fmt: skip

import anyio
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from typing_extensions import TypedDict as DynamicTypedDict, Unpack

from ..core.budgets import MIN_OUTPUT_BYTES
from ..core.values import JsonObject, ToolEffect, ToolSpec, ToolStatus, check_id
from ..errors import EncodingError, EngineClosed, InvalidId, ToolDefinitionError
from ..ports import OnFailure, ToolContext, ToolOptions, ToolOutput
from .encode import complaint, describe, encode_result
from .threads import run_abandonable
from .warm import Warm, WarmHook, Warmth, warm_of

if TYPE_CHECKING:
    from .workers import ProcessCallee, WorkerLimits, WorkerPool

P = ParamSpec("P")
R = TypeVar("R")


class ToolKeywords(TypedDict, total=False):
    """What `@tool` takes; everything has a default.

    `effect` "write"; `timeout_s` 60 seconds; `conflict_key` a format string over the arguments: calls with the same key
    run one after the other; `polls` True for a tool that is meant to be called over and over; `probe` a function with
    the tool's parameters that returns the result of a write that took place, or None if it certainly did not; `name`
    and `description` instead of the function's own; `on_failure`, `cache_ttl_s`, `max_output_bytes`, `version` and
    `external` as in `ToolOptions`: an external tool's function is never called, it only describes the call, and
    without a `timeout_s` the host has as long as it takes; `isolation` "process" for a process of its own, which can
    be killed with all it has started and is held to `limits`, those of `WorkerLimits` if not given; `warm` prepares
    for a probable call: a `Warm`, its hook alone, or "result" to run the call itself ahead with guessed arguments.
    """

    effect: ToolEffect
    timeout_s: float
    conflict_key: str | None
    polls: bool
    probe: Callable[..., object] | None
    name: str
    description: str
    on_failure: OnFailure
    cache_ttl_s: float | None
    max_output_bytes: int | None
    version: str
    external: bool
    isolation: Literal["thread", "process"]
    limits: WorkerLimits
    warm: Warm | WarmHook | Literal["result"]


class FunctionTool(Generic[P, R]):
    """A function that a model can call. Calling the tool itself calls the function.

    Attributes:
        is_async: whether the function is awaited; otherwise it runs in a thread, which nobody can stop.
        isolated: whether calls run in a process of their own, which ends them in time and can be killed.
    """

    def __init__(self, function: Callable[P, R], options: ToolKeywords) -> None:
        update_wrapper(self, function)
        self._function = function
        probe = options.get("probe")
        self._probe = None if probe is None else _Callee(probe)
        name = options.get("name", getattr(function, "__name__", ""))
        try:
            check_id(name, "tool name")
        except InvalidId as error:
            raise ToolDefinitionError(f"{error}; give the tool a name: @tool(name=…)") from error
        self._callee = _Callee(function)
        adapter, parameters = _arguments_of(function, self._callee, name)
        # The validator itself: the adapter's own method takes longer to pass the options on than to validate.
        self._validate: Callable[[JsonObject], dict[str, Any]] = adapter.validator.validate_python
        self._spec = ToolSpec(
            name=name, description=options.get("description", _summary(function)), parameters=parameters
        )
        self._options = _checked_options(options, name, parameters)
        self._process = _process_of(function, options, self._options.effect)
        self.is_async = self._callee.is_async
        self.isolated = self._process is not None
        self._warm: Warmth = warm_of(options.get("warm"), self._options, name)
        self._pool: Callable[[], WorkerPool] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, without validation, deadline or record."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self._spec.name} ({self._options.effect})>"

    @property
    def spec(self) -> ToolSpec:
        """How the tool is described to the model."""
        return self._spec

    @property
    def options(self) -> ToolOptions:
        """How the tool may be run."""
        return self._options

    @property
    def worker_limits(self) -> WorkerLimits | None:
        """What a call in a process of its own may use."""
        return None if self._process is None else self._process.limits

    def served_by(self, pool: Callable[[], WorkerPool]) -> FunctionTool[P, R]:
        """Return this tool with its calls going to the workers of one engine.

        Args:
            pool: returns what they run in, and is asked at each call.
        """
        served = copy(self)
        served._pool = pool
        return served

    @property
    def warm(self) -> Warmth:
        """What prepares for a call."""
        return self._warm

    @property
    def can_probe(self) -> bool:
        """Whether the tool can find out if a write took place."""
        return self._probe is not None

    def bind(self, arguments: JsonObject) -> Mapping[str, Any]:
        """Return the validated arguments.

        Raises:
            ValueError: they do not fit; the text names each argument and what is wrong with it.
        """
        try:
            return self._validate(arguments)
        except ValidationError as error:
            raise ValueError(complaint(error)) from None

    async def run(self, bound: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Run the function. Whatever it raises or returns becomes an output; only cancellation is passed on."""
        if self._process is not None:
            if self._pool is None:
                raise EngineClosed(f"{self!r} runs in a worker process, and those are an engine's: Engine(tools=[…])")
            # What binding has made of the arguments may be any object: the worker binds the recorded ones again.
            return await self._process.run(self._pool(), context)
        try:
            return ToolOutput(await self._callee.call(bound, context))
        except EncodingError as error:
            text = f"the tool ran, but its result cannot be recorded: {error}"
            return ToolOutput(text, ToolStatus.FAILED, "result_not_encodable")
        except GeneratorExit:
            raise
        except BaseException as error:
            cancellation = _cancellation_in(error)
            if cancellation is not None and really_cancelled():
                raise cancellation from None
            return ToolOutput(describe(error), ToolStatus.FAILED, type(error).__name__)

    async def probe(self, bound: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Return the result of a write that took place, None if it certainly did not.

        Raises:
            Exception: whatever the probe raises: then nobody knows.
        """
        assert self._probe is not None
        text = await self._probe.call(bound, context)
        return None if text == "null" else ToolOutput(text)


class _Callee:
    """A function of the host's, called the way it wants to be: awaited or in a thread, with the context or without."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self.hints = _hints(function)
        self.context_name = next((name for name, hint in self.hints.items() if hint is ToolContext), None)

    async def call(self, bound: Mapping[str, Any], context: ToolContext) -> str:
        """Return the encoded result."""
        arguments = dict(bound) if self.context_name is None else {**bound, self.context_name: context}
        if self.is_async:
            return encode_result(await self.function(**arguments))
        return await run_abandonable(lambda: encode_result(self.function(**arguments)), context.occupy())


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...
@overload
def tool(**options: Unpack[ToolKeywords]) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...
def tool(
    function: Callable[P, R] | None = None, /, **options: Unpack[ToolKeywords]
) -> FunctionTool[P, R] | Callable[[Callable[P, R]], FunctionTool[P, R]]:
    """Make a function a tool.

    Args:
        function: an async or synchronous function with annotated parameters.
        options: see `ToolKeywords`.

    Raises:
        ToolDefinitionError: a parameter has no annotation or one that no JSON Schema can express, the name is not
            `[A-Za-z0-9_-]{1,128}`, or an option is out of its range.
    """
    if function is not None:
        return FunctionTool(function, options)
    return lambda decorated: FunctionTool(decorated, options)


def _cancellation_in(error: BaseException) -> BaseException | None:
    """Return the cancellation that an error is, or that a task group of the tool's own holds beside others."""
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return next(filter(None, map(_cancellation_in, group.exceptions)), None)
    return error if isinstance(error, anyio.get_cancelled_exc_class()) else None


def really_cancelled() -> bool:
    """Tell a cancellation from a tool that merely raised the exception."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:
        # Not on asyncio: trio raises its exception only where a scope is cancelled.
        return False
    return task is not None and task.cancelling() > 0


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(
            f"the annotations of {getattr(function, '__name__', function)!r} cannot be resolved: {error}; "
            "import their types at the top of the module, outside TYPE_CHECKING"
        ) from error


def _arguments_of(
    function: Callable[..., Any], callee: _Callee, name: str
) -> tuple[TypeAdapter[dict[str, Any]], JsonObject]:
    """Return what validates the arguments of a function, and their JSON Schema."""
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    open_ended = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == callee.context_name:
            continue
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} must be callable by name")
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
            continue
        if parameter.name not in callee.hints:
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} has no annotation; annotate it: {parameter.name}: str"
            )
        hint = callee.hints[parameter.name]
        if parameter.default is parameter.empty:
            fields[parameter.name] = hint
        else:
            fields[parameter.name] = NotRequired[hint]
            defaults[parameter.name] = parameter.default
    return _adapter(name, fields, defaults, open_ended=open_ended)


def _adapter(
    name: str, fields: dict[str, Any], defaults: dict[str, Any], *, open_ended: bool
) -> tuple[TypeAdapter[dict[str, Any]], JsonObject]:
    make_shape: Any = DynamicTypedDict
    shape = make_shape(name, fields)
    shape.__pydantic_config__ = ConfigDict(extra="allow" if open_ended else "forbid", arbitrary_types_allowed=False)
    try:
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)
        schema = adapter.json_schema()
    except (PydanticUserError, PydanticUndefinedAnnotation, ValueError, TypeError) as error:
        raise ToolDefinitionError(f"tool {name!r}: no JSON Schema for its annotations: {error}") from error
    schema.pop("title", None)
    for parameter, default in defaults.items():
        # An absent argument takes the function's own default; the schema tells the model what that is.
        if isinstance(default, str | int | float | bool):
            schema["properties"][parameter]["default"] = default
    schema.setdefault("properties", {})
    return adapter, schema


def _summary(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return text.split("\n\n", 1)[0].replace("\n", " ").strip()


def _process_of(function: Callable[..., Any], options: ToolKeywords, effect: ToolEffect) -> ProcessCallee | None:
    """Return what calls a function in a process of its own, where that is asked for."""
    isolation, limits = options.get("isolation"), options.get("limits")
    shown = getattr(function, "__name__", repr(function))
    if isolation == "process":
        from .workers import ProcessCallee, WorkerLimits

        if limits is not None and not isinstance(limits, WorkerLimits):
            raise ToolDefinitionError(f"{shown}: limits must be a WorkerLimits, not {limits!r}")
        return ProcessCallee(function, effect, limits or WorkerLimits())
    if isolation not in (None, "thread"):
        raise ToolDefinitionError(f"{shown}: isolation {isolation!r} is none of thread, process")
    if isolation == "thread" and inspect.iscoroutinefunction(function):
        raise ToolDefinitionError(f"{shown} is async and runs in the event loop: leave isolation out, or say 'process'")
    if limits is not None:
        raise ToolDefinitionError(f"{shown}: limits bind a process; add isolation='process', or leave them out")
    return None


def _checked_options(options: ToolKeywords, name: str, parameters: JsonObject) -> ToolOptions:
    effect = options.get("effect", "write")
    external = options.get("external", False)
    timeout_s = options.get("timeout_s", 60.0)
    if effect not in ("read", "idempotent", "write"):
        raise ToolDefinitionError(f"tool {name!r}: effect {effect!r} is none of read, idempotent, write")
    if not 0 < timeout_s < math.inf:
        raise ToolDefinitionError(f"tool {name!r}: timeout_s must be a positive number of seconds, not {timeout_s!r}")
    key = options.get("conflict_key")
    if key is not None:
        properties = cast(dict[str, Any], parameters["properties"])
        try:
            key.format_map(dict.fromkeys(properties, ""))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ToolDefinitionError(
                f"tool {name!r}: conflict_key {key!r} must be a format string over {', '.join(properties)}"
            ) from error
    return ToolOptions(
        effect=effect,
        timeout_s=math.inf if external and "timeout_s" not in options else float(timeout_s),
        conflict_key=key,
        polls=options.get("polls", False),
        external=external,
        **_checked_results(options, name, effect),
    )


class _Results(TypedDict):
    on_failure: OnFailure
    cache_ttl_s: float | None
    max_output_bytes: int | None
    version: str


def _checked_results(options: ToolKeywords, name: str, effect: ToolEffect) -> _Results:
    """Return what is to become of the results of a tool."""
    on_failure = options.get("on_failure", "tell_model")
    if on_failure not in ("tell_model", "retry", "stop"):
        raise ToolDefinitionError(f"tool {name!r}: on_failure {on_failure!r} is none of tell_model, retry, stop")
    if on_failure == "retry" and effect == "write":
        raise ToolDefinitionError(
            f'tool {name!r}: on_failure="retry" could do a write twice; declare effect="idempotent" if its service '
            "knows the idempotency key"
        )
    if on_failure == "retry" and options.get("external"):
        raise ToolDefinitionError(f'tool {name!r}: an external tool is never run, so on_failure="retry" has no meaning')
    ttl_s = options.get("cache_ttl_s")
    if ttl_s is not None and not (0 < ttl_s < math.inf and effect == "read"):
        raise ToolDefinitionError(
            f'tool {name!r}: cache_ttl_s must be a positive number of seconds, of a tool with effect="read"'
        )
    most = options.get("max_output_bytes")
    if most is not None and most < MIN_OUTPUT_BYTES:
        raise ToolDefinitionError(f"tool {name!r}: max_output_bytes must be at least {MIN_OUTPUT_BYTES}, not {most}")
    version = options.get("version", "")
    return _Results(on_failure=on_failure, cache_ttl_s=ttl_s, max_output_bytes=most, version=version)
