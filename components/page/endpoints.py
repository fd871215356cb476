"""Endpoints: what clients may call, how it is described, and how their calls stand in line."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import wraps
from typing import Any

import gradio as gr

from components.errors import Cancelled, DemoError
from components.inputs import given
from components.page.answers import About
from components.page.demo import Demo
from components.page.events import CLOSING, FINISHED, Told, start
from components.page.visits import visitor
from components.server.line import Line

NOTHING_MORE = About()


def hidden(kind: type[gr.components.Component], label: str, **options: Any) -> Any:
    """A component that only an endpoint uses.

    One for a text refuses all else: Gradio would write it out.
    """
    component: Any = kind(label=label, visible=False, **options)
    if isinstance(component, gr.Textbox):

        def preprocess(payload: Any) -> str | None:
            if payload is None or isinstance(payload, str):
                return payload
            raise gr.Error(str(given.not_a_text(payload, label)), print_exception=False)

        component.preprocess = preprocess  # type: ignore[method-assign]
    return component


def checkpoint_parameter() -> gr.Textbox:
    """The `checkpoint` parameter of an endpoint."""
    return hidden(gr.Textbox, "checkpoint", value="auto", info='"auto", "course", "starter" or owner/name')


def remarks_parameter() -> gr.Checkbox:
    """The `remarks` parameter of an endpoint whose answer is a list; see `answers.with_remarks`."""
    return hidden(gr.Checkbox, "remarks", value=False)


def publish(
    call: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    about: About,
) -> None:
    """Have these components tell clients what they take and give, instead of what their kind does."""
    _, told, answers = gr.utils.get_function_description(call)
    for component, name in zip(inputs, inspect.signature(call).parameters, strict=False):
        default = inspect.signature(call).parameters[name].default
        schema = {**component.api_info(), **about.limits.get(name, {})}
        if "anyOf" in schema:
            schema.pop("type", None)  # that of the component is one of them
        if told.get(name):
            # Gradio's page shows the one, agents and the OpenAPI description read the other.
            schema |= {"description": told[name], "additional_description": told[name]}
        if default is not inspect.Parameter.empty:
            schema["default"] = default
        _tells(component, "api_info", schema)
        if name in about.examples or "default" in schema:
            _tells(component, "example_payload", about.examples.get(name, schema.get("default")))
    for component, schema, answer in zip(outputs, about.returns, answers, strict=bool(about.returns)):
        _tells(component, "api_info", {**schema, "description": answer})


def _tells(component: gr.components.Component, method: str, answer: Any) -> None:
    setattr(component, method, lambda: answer)


def for_clients(call: Callable[..., Any], line: Line, demo: Demo) -> Callable[..., Any]:
    """The same function, done in its line, with a DemoError made one that Gradio hands to the client."""
    signature = inspect.signature(call)
    seen = [parameter for parameter in signature.parameters.values() if parameter.name != "stopped"]
    # Gradio gives the request to a parameter of this type, which clients do not see either.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    request_parameter = inspect.Parameter("request", kind, default=None, annotation=gr.Request)
    asked = signature.replace(parameters=[*seen, request_parameter])

    async def steps(*values: Any) -> AsyncGenerator[Any]:
        told, ticket = Told(), None

        def act(*values: Any) -> Any:
            *given, stopped = values
            return call(*given, stopped=stopped)

        try:
            bound = asked.bind(*values)
            bound.apply_defaults()
            *given, request = bound.args
            ticket = start(line, demo, act, tuple(given), told, visitor(request))
            while (step := await told.next(None)) is not FINISHED:
                if isinstance(step, DemoError):
                    raise step
                yield step
            if ticket.stop.is_set():
                raise Cancelled(CLOSING if line.closing else "Stopped.")
        except DemoError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            if ticket:
                line.leave(ticket)

    @wraps(call)
    async def stream(*values: Any) -> AsyncIterator[Any]:
        async with aclosing(steps(*values)) as answers:
            async for answer in answers:
                yield answer

    @wraps(call)
    async def once(*values: Any) -> Any:
        async with aclosing(steps(*values)) as answers:
            async for answer in answers:
                return answer

    client: Any = stream if inspect.isgeneratorfunction(call) else once
    client.__signature__ = asked
    client.__annotations__ = {**call.__annotations__, "request": gr.Request}
    return client


def scores_output() -> gr.JSON:
    """The output of endpoints that classify: `answers.labelled`."""
    return hidden(gr.JSON, "scores")
