"""Linking: links to a tab as it is filled in, and the address of the tab that is open."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from components.page import links
from components.page.events import QUIET
from components.show import markup

Refresh = tuple[Callable[..., Any], Sequence[Any], Sequence[Any]]  # a function, its inputs and outputs
LINKED = "Filled in from a link. Nothing has run yet."


def linked(
    name: str,
    inputs: Mapping[str, gr.components.Component],
    fresh: Sequence[Refresh] = (),
    idle: Callable[[Mapping[str, Any]], Sequence[str]] = lambda values: (),
) -> None:
    """A button that copies a link which opens the tab `name` with the same values in its inputs.

    inputs: by their names in the link, which stay as they are; media are said to be left out. fresh: what is
    called, with some of them, when a link fills the tab, where they decide what others offer or what is
    drawn; to one of them it gives an update. idle: the values -> the names of those that play no part beside
    the others. A link runs nothing.
    """
    parameters = {one: parameter(component) for one, component in inputs.items()}
    components = list(inputs.values())
    with gr.Row(elem_classes="link"):
        button = gr.Button("Copy link", size="sm", scale=0, min_width=120)
        said = gr.HTML(
            elem_classes="said",
            js_on_load=f"tour.filled({json.dumps(name)}, (query) => trigger('select', {{query}}));",
        )
    query = gr.Textbox(visible=False)

    def write(*values: Any) -> tuple[str, str]:
        given = dict(zip(inputs, values, strict=True))
        for one in idle(given):
            given[one] = None
        link, left_out = links.encode(name, parameters, given)
        return link, f"Not in it: {', '.join(left_out)}." if left_out else ""

    # What a link may change: the inputs, and what is drawn anew.
    changed = list(dict.fromkeys([*components, *(one for _, _, outputs in fresh for one in outputs)]))

    def take(event: gr.EventData, *values: Any) -> tuple[Any, ...]:
        now = dict(zip(inputs, values, strict=True))
        # Without a query a run of the history has filled the tab already.
        given = now if event.query is None else links.decode(str(event.query), parameters)
        held = {inputs[one]: value for one, value in {**now, **given}.items()}
        updates: dict[Any, Any] = {}
        for act, of, outputs in fresh:
            answer = act(*(held[one] for one in of))
            updates |= zip(outputs, answer if len(outputs) > 1 else (answer,), strict=True)
        for one, value in given.items():
            if event.query is not None or inputs[one] in updates:
                updates[inputs[one]] = {**updates.get(inputs[one], gr.update()), "value": value}
        told = markup.remark(LINKED) if given and event.query is not None else gr.skip()
        return told, *(updates.get(one, gr.skip()) for one in changed)

    made = button.click(write, components, [query, said], **QUIET)
    made.then(None, [query, said], said, js="(query, remark) => tour.copied(query, remark)", **QUIET)
    said.select(take, components, [said, *changed], **QUIET)


def parameter(component: gr.components.Component) -> links.Parameter:
    """What a link may give to a component."""
    label = str(component.label or "")
    if isinstance(component, gr.Textbox):
        return links.Parameter("text", label)
    if isinstance(component, gr.Checkbox):
        return links.Parameter("flag", label)
    if isinstance(component, gr.Slider):
        whole = all(float(part).is_integer() for part in (component.minimum, component.step))
        return links.Parameter(
            "number",
            label,
            least=component.minimum,
            most=component.maximum,
            step=component.step,
            whole=whole,
        )
    if isinstance(component, gr.Number):
        return links.Parameter(
            "number",
            label,
            least=component.minimum,
            most=component.maximum,
            whole=component.precision == 0,
        )
    if isinstance(component, gr.Radio | gr.Dropdown | gr.CheckboxGroup):
        known = tuple(value for _, value in component.choices)
        several = isinstance(component, gr.CheckboxGroup)
        free = isinstance(component, gr.Dropdown) and component.allow_custom_value
        return links.Parameter("choices" if several else "choice", label, known, free)
    return links.Parameter("media", label)


def addresses(tabs: gr.Tabs, opened: Mapping[str, gr.Tab]) -> None:
    """Let the address name the tab that is open: `/?tab=name`; back and forward open those before.

    opened: the tabs by their names.
    """
    router = gr.HTML(elem_classes="unseen", js_on_load="tour.routes(() => trigger('select', {}));")
    router.select(None, None, tabs, js="() => tour.selected()", **QUIET)
    for name, tab in opened.items():
        tab.select(None, None, None, js=f"() => tour.chosen({json.dumps(name)})", **QUIET)
