"""What a function tells about the tool that is made of it: its arguments, their schema, its description.

May import core and errors. Must never call the function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NotRequired, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from typing_extensions import TypedDict as DynamicTypedDict

from ..core.values import JsonObject
from ..errors import ToolDefinitionError


def inner_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what the annotations and the name are read from: the function of a partial, the method of an object."""
    while isinstance(function, partial):
        function = function.func
    if hasattr(function, "__wrapped__"):
        # A decorator's work, a tool included: what it was made of tells.
        return cast(Callable[..., Any], inspect.unwrap(function))
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return cast(Callable[..., Any], getattr(function, "__call__", function))  # noqa: B004 - the method, not whether there is one


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function, resolved.

    Raises:
        ToolDefinitionError: one of them names a type that cannot be found.
    """
    try:
        return get_type_hints(inner_function(function), include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(
            f"the annotations of {getattr(function, '__name__', function)!r} cannot be resolved: {error}; "
            "import their types at the top of the module, outside TYPE_CHECKING"
        ) from error


def _bound(function: Callable[..., Any]) -> Mapping[str, Any]:
    # What a partial has bound is the host's: no model may give it another value.
    return function.keywords if isinstance(function, partial) else {}


def arguments_of(
    function: Callable[..., Any], hints: Mapping[str, Any], context_name: str | None, name: str
) -> tuple[TypeAdapter[dict[str, Any]], JsonObject]:
    """Return what validates the arguments of a function, and their JSON Schema.

    Args:
        function: what is called.
        hints: its annotations.
        context_name: the parameter that takes the request and stays out, if there is one.
        name: the tool's.

    Raises:
        ToolDefinitionError: a parameter cannot be given by name, has no annotation, or none with a JSON Schema.
    """
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    open_ended = False
    bound = _bound(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == context_name or parameter.name in bound:
            continue
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} must be callable by name")
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
            continue
        if parameter.name not in hints:
            if parameter.name == "self":
                raise ToolDefinitionError(
                    f"tool {name!r} is a method without its object; make a tool of the bound one: tool(thing.{name})"
                )
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} has no annotation; annotate it: {parameter.name}: str"
            )
        hint = hints[parameter.name]
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


def summary(function: Callable[..., Any]) -> str:
    """Return the first paragraph of the docstring, on one line."""
    text = inspect.getdoc(function) or ""
    return text.split("\n\n", 1)[0].replace("\n", " ").strip()
