"""Transformer Tour: the app. Settings, manager, tabs, server, in that order."""

from __future__ import annotations

import gc
import html
import logging
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from functools import partial

# Read when their packages are first imported. Progress is shown on the page, not in the log.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Gradio makes a table of its last 10,000 events after every single one, for a page that nobody opens here.
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)

import gradio as gr
from gradio import tunneling

import demos
from components import sources, ui
from components.checkpoints import Offer
from components.errors import DemoError
from components.hub import HubStatus
from components.line import Line
from components.models import ModelManager
from components.settings import Settings, parse

GRACE = 5.0  # seconds that runs may take to finish when the app is stopped
TELLING = 2.0  # seconds for those who are broken off to be told
SENDING = 0.5  # seconds for the last answers to be sent
MOST_EVENTS = 256  # of Gradio at once; those that wait in our line among them
MOST_SESSIONS = 250  # whose state Gradio keeps, about a megabyte for each
IMPORTING = threading.Lock()  # see warm


def create_manager(settings: Settings, hub: HubStatus) -> ModelManager:
    """The manager with the real sources, loader and device behind it. Imports torch only when used."""
    from components.checkpoints import Checkpoint
    from components.device import best_device, best_dtype, cpu
    from components.loading import place
    from components.models import Place
    from components.progress import Report

    def cpu_beside() -> Place | None:
        return None if best_device().type == "cpu" else place(cpu, settings.quantize)

    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        warm()
        return sources.choose(offer, choice, settings.checkpoints, hub)

    def fetch(checkpoint: Checkpoint, report: Report):
        return sources.fetch(
            checkpoint,
            settings.cache / "starters",
            report,
            free_memory=models.room,
            bytes_per_parameter=best_dtype(best_device()).itemsize,
            alone=models.alone,
        )

    best = place(best_device, settings.quantize)
    models = ModelManager(
        choose=choose,
        fetch=fetch,
        load=best.load,
        size=best.size,
        free=best.free,
        move=best.move,
        cpu=cpu_beside,
        budget=int(settings.memory_budget * 1e9) or None,
        keep_alive=None if settings.keep_alive < 0 else settings.keep_alive * 60,
    )
    return models


def masthead(settings: Settings, hub: HubStatus) -> str:
    """Where the models run now: device and hub."""
    from components.device import best_device, device_name

    if settings.checkpoints == "starter":
        where = "starters only"
    else:
        where = "hub reached" if hub.reachable() else "without the hub"
    return _header(f"Models run on {device_name(best_device())}, {where}")


def _header(where: str) -> str:
    return (
        '<div class="masthead"><h1>Transformer Tour</h1>'
        "<p>See how Transformers solve tasks, on your own words, voice and pictures.</p>"
        f'<p class="where" role="status">{html.escape(where)}</p></div>'
    )


def create_app(models: ModelManager, settings: Settings, hub: HubStatus, line: Line) -> gr.Blocks:
    """The page: a header, one tab for each module in demos/, and the models in a sidebar."""
    with gr.Blocks(title="Transformer Tour", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        header = gr.HTML(_header("Starting …"))
        with gr.Tabs():
            for demo in demos.discover():
                with gr.Tab(demo.title, id=demo.name):
                    demo.build(demo, models, settings, line)
        ui.models_panel(models, line, demos.discover(), may_change=not settings.public)
        app.load(
            partial(masthead, settings, hub), None, header, show_progress="hidden", api_visibility="private"
        )
    # Runs wait in a line of ours, which tells them their place.
    app.queue(default_concurrency_limit=None)
    return app


def warm() -> None:
    """Import what the first click needs, so that it does not have to wait for it.

    One thread at a time: Transformers puts another module into its own place while it is imported, and
    a thread that asks for it meanwhile is left with the empty one.
    """
    with IMPORTING:
        # Transformers imports a module when its first name is asked for.
        from transformers import (  # noqa: F401
            AutoImageProcessor,
            AutoModel,
            AutoTokenizer,
            GenerationMixin,
            PreTrainedModel,
            ProcessorMixin,
        )


def preloaded(settings: Settings) -> list[Offer]:
    """What the tabs offer that settings.preload names. Raises SystemExit if one is unknown."""
    tabs = {demo.name: demo.offer for demo in demos.discover() if demo.offer}
    names = [name.strip() for name in settings.preload.split(",") if name.strip()]
    if unknown := [name for name in names if name not in tabs]:
        sys.exit(f"--preload: there is no tab {unknown[0]}. The tabs are {', '.join(tabs)}.")
    return [tabs[name] for name in names]


def prepare(models: ModelManager, pinned: list[Offer]) -> None:
    """While the page is up already: imports, and the models that stay loaded."""
    warm()
    # What is imported stays. Looking through it for garbage would stop everybody for a quarter of a second.
    gc.collect()
    gc.freeze()
    for offer in pinned:
        try:
            models.preload(offer)
        except DemoError as error:
            logging.getLogger("tour").warning("%s is not preloaded: %s", offer.recipe.task, error)


def stop(line: Line) -> None:
    """Let the runs under way finish, or tell their visitors that they do not."""
    log = logging.getLogger("tour")
    log.info("stopping: %d runs under way, %d waiting", *line.counts())
    finished = line.close(GRACE, TELLING)
    time.sleep(SENDING)
    log.info("stopped: %s", "all runs finished" if finished else "some runs were broken off")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Marian works without it; it would only make quotation marks and dashes uniform.
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    settings = parse(sys.argv[1:], os.environ)
    hub = HubStatus()
    line, models = Line(settings.queue), create_manager(settings, hub)
    pinned = preloaded(settings)
    app = create_app(models, settings, hub, line)
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: leaving.set())
    try:
        app.launch(
            server_name=settings.host,
            server_port=settings.port,
            share=settings.share,
            theme=ui.theme(),
            css_paths=ui.STYLE,
            head_paths=ui.SCRIPT,
            prevent_thread_lock=True,
            max_threads=MOST_EVENTS,
            state_session_capacity=MOST_SESSIONS,
            ssr_mode=False,
            footer_links=["api", "settings"],
        )
    except OSError:
        logging.getLogger("tour").debug("launch", exc_info=True)
        where = f"Port {settings.port} is" if settings.port else "The ports from 7860 on are all"
        sys.exit(f"{where} in use. Stop what listens there, or choose another with --port.")
    threading.Thread(target=prepare, args=(models, pinned), name="prepare", daemon=True).start()
    with suppress(KeyboardInterrupt):
        leaving.wait()
    stop(line)  # the server ends with the process
    if line.counts()[0]:
        # A step of a model is under way that nobody waits for; Python cannot end in the middle of one.
        logging.shutdown()
        for tunnel in tunneling.CURRENT_TUNNELS:
            tunnel.kill()
        os._exit(0)


if __name__ == "__main__":
    main()
