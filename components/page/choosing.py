"""Choosing: the dropdown of a tab's checkpoints."""

from __future__ import annotations

import gradio as gr

from components.weights.checkpoints import Offer

TYPED = "Pick one, or type any owner/name or owner/name@revision of the hub."


def only_listed(app: gr.Blocks) -> None:
    """Have the dropdowns of checkpoints say that no others are taken."""
    for block in app.blocks.values():
        if isinstance(block, gr.Dropdown) and block.info == TYPED:
            block.info = "Pick one. This app is open to others and runs only these."


def checkpoint_dropdown(offer: Offer, label: str = "Checkpoint", value: str = "auto") -> gr.Dropdown:
    """What an offer holds, or any name of the hub that a visitor types."""
    return gr.Dropdown(
        choices=choices(offer),
        value=value,
        label=label,
        info=TYPED,
        allow_custom_value=True,
        filterable=True,
    )


def other(offer: Offer) -> str:
    """What may be set against "auto": the starter where there is one, else an alternative."""
    return "starter" if offer.starter else next((one.name for one in offer.alternatives), "auto")


def choices(offer: Offer) -> list[tuple[str, str]]:
    """What a dropdown of an offer's checkpoints shows, with the choice that each stands for."""
    if offer.starter is None:
        return [
            (f"Course: {offer.course.name}", "auto"),
            *((checkpoint.name, checkpoint.name) for checkpoint in offer.alternatives),
        ]
    return [
        ("Automatic: the course's, or the starter without the hub", "auto"),
        (f"Course: {offer.course.name}", "course"),
        (f"Starter: {offer.starter.name}", "starter"),
        *((f"Starter: {starter.name}", starter.name) for starter in offer.starters[1:]),
        *((other.name, other.name) for other in offer.alternatives if not other.is_starter),
    ]
