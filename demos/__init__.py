"""The tabs: one module each. A new tab is a new module here with a DEMO; nothing else lists them."""

import importlib
import pkgutil

from components.page.demo import Demo


def discover() -> list[Demo]:
    """The DEMO of every module in this folder, in their order.

    Raises ValueError if a module has none, or if two share a name or a place.
    """
    found = []
    for module in pkgutil.iter_modules(__path__):
        demo = getattr(importlib.import_module(f"{__name__}.{module.name}"), "DEMO", None)
        if not isinstance(demo, Demo):
            raise ValueError(f"demos/{module.name}.py has no DEMO")
        found.append(demo)
    for what in ("name", "order"):
        values = [getattr(demo, what) for demo in found]
        if len(set(values)) < len(values):
            raise ValueError(f"two tabs have the same {what}: {sorted(values)}")
    return sorted(found, key=lambda demo: demo.order)
