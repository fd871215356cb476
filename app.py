"""Transformer Tour: the app. Settings, manager, tabs, server, in that order."""

from __future__ import annotations

import contextlib
import gc
import html
import io
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Read when their packages are first imported. Progress is shown on the page, not in the log.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Gradio makes a table of its last 10,000 events after every single one, for a page that nobody opens here.
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)

from components.server import hosting

os.environ.update(hosting.defaults(os.environ, hosting.storage()))

from components.server import addresses, uploads
from components.settings import Settings, parse

if __name__ == "__main__":
    # While all is imported nothing is garbage, and looking for it takes a sixth of that time. See prepare.
    gc.disable()
    # Before Gradio, which reads some of the same variables while it is imported and has no sentence for them.
    SETTINGS = parse(sys.argv[1:], os.environ)
    os.environ.pop("GRADIO_SERVER_NAME", None)  # it takes IPv4 addresses only there
    try:
        addresses.check_proxies(os.environ)
        UPLOADS = uploads.begin(os.environ)
    except ValueError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(
            f"What visitors upload cannot be kept: {error}. Name a folder for it with {uploads.VARIABLE}."
        )
    os.environ[uploads.VARIABLE] = str(UPLOADS.path)

import gradio as gr
from gradio import networking, tunneling
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import demos
from components.errors import DemoError
from components.models.manager import ModelManager
from components.page import choosing, linking, patches, sidebar, ui, visits
from components.server import agents, logs
from components.server.access import (
    GUEST,
    Door,
    Limits,
    is_far,
    is_forwarded,
    is_private,
    is_private_address,
    new_password,
    read_users,
)
from components.server.line import Line
from components.server.metrics import TYPE, Metrics
from components.weights import sources
from components.weights.checkpoints import Offer
from components.weights.hub import HubStatus

GRACE = 5.0  # seconds that runs may take to finish when the app is stopped
TELLING = 2.0  # seconds for those who are broken off to be told
SENDING = 0.5  # seconds for the last answers to be sent
MOST_EVENTS = 256  # of Gradio at once; those that wait in our line among them
MOST_SESSIONS = 250  # whose state Gradio keeps, about a megabyte for each
IMPORTING = threading.Lock()  # see warm


def create_manager(
    settings: Settings,
    hub: HubStatus,
    device: Callable[[], Any] | None = None,
    failures: sources.Failures | None = None,
    **options: Any,
) -> ModelManager:
    """The manager with the real sources, loader and device behind it. Imports torch only when used.

    device: where models run, the best one if not given; failures: for how long a checkpoint that did not come
    is not tried again; options: more of the manager's.
    """
    from components.models.device import best_device, best_dtype, cpu
    from components.models.loading import place
    from components.models.manager import Loaded, Place
    from components.models.matrices import Ways
    from components.progress import Report
    from components.weights.checkpoints import Checkpoint

    device, failed = device or best_device, failures or sources.Failures()
    ways = Ways(settings.cache / "linear.json")

    def at(*which: Any, **how: Any) -> Place:
        there = place(*which, **how)

        def load(checkpoint: Checkpoint, folder: Path) -> Loaded:
            loaded = there.load(checkpoint, folder)
            failed.forget(checkpoint)
            return loaded

        return replace(there, load=load)

    def cpu_beside() -> Place | None:
        return None if device().type == "cpu" else at(cpu, settings.quantize, ways)

    def in_full() -> Place | None:
        return None if device().type == "cpu" else at(device, full=True)

    def choose(offer: Offer, choice: str) -> tuple[Checkpoint, str]:
        warm()
        any_other = settings.any_checkpoint or not visits.is_exposed(settings)
        return sources.choose(offer, choice, settings.checkpoints, hub, any_other, failed)

    def fetch(checkpoint: Checkpoint, report: Report) -> Path:
        return sources.fetch(
            checkpoint,
            settings.cache / "starters",
            report,
            free_memory=models.room,
            bytes_per_parameter=best_dtype(device()).itemsize,
            alone=models.alone,
            max_download=int(settings.max_download * 1e9),
        )

    best = at(device, settings.quantize, ways)
    models = ModelManager(
        choose=choose,
        fetch=fetch,
        load=best.load,
        size=best.size,
        free=best.free,
        move=best.move,
        spare=best.spare,
        cpu=cpu_beside,
        instead=partial(sources.instead, policy=settings.checkpoints, failures=failed),
        full=in_full,
        budget=int(settings.memory_budget * 1e9) or None,
        keep_alive=None if settings.keep_alive < 0 else settings.keep_alive * 60,
        **options,
    )
    return models


def create_lent(settings: Settings, hub: HubStatus) -> ModelManager:
    """The manager on ZeroGPU: what the tabs offer goes onto the GPU now, and runs go there.

    Call it in the main thread, before torch is imported. All else is done with copies on the CPU.
    """
    import spaces  # Spaces with this hardware have it, and nobody else needs it

    from components.models.device import cpu
    from components.models.zerogpu import Away, placed

    # A manager of its own: what the process with the GPU takes along must not be in use here.
    # There is no time to try again what did not come in the beginning.
    there = create_manager(
        replace(settings, memory_budget=0.0),
        HubStatus(),
        failures=sources.Failures(math.inf, math.inf),
        start=lambda name, work: work(),
    )
    offers = {demo.offer.course.name: demo.offer for demo in demos.discover() if demo.offer}
    models = create_manager(settings, hub, device=cpu)
    models.away = Away(spaces.GPU, placed(there, list(offers.values())))
    return models


def masthead(settings: Settings, hub: HubStatus) -> str:
    """Where the models run now: device and hub."""
    from components.models.device import best_device, device_name

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
    patches.relative_addresses()
    with gr.Blocks(title="Transformer Tour", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        header = gr.HTML(_header("Starting …"))
        opened = {}
        with gr.Tabs() as tabs:
            for demo in demos.discover():
                with gr.Tab(demo.title, id=demo.name, elem_id=f"tab-{demo.name}") as opened[demo.name]:
                    demo.build(demo, models, settings, line)
        linking.addresses(tabs, opened)
        sidebar.models_panel(models, line, demos.discover(), may_change=not settings.exposed)
        app.load(
            partial(masthead, settings, hub), None, header, show_progress="hidden", api_visibility="private"
        )
    if not settings.takes_any_checkpoint:
        choosing.only_listed(app)
    patches.keep_runs(app)
    patches.forgiving(app)
    patches.fetches(app, settings.max_upload * 1e6)
    # Runs wait in a line of ours, which tells them their place.
    app.queue(default_concurrency_limit=None)
    patches.rest_between_runs(app._queue)
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


def prepare(models: ModelManager, pinned: list[Offer], ready: threading.Event) -> None:
    """While the page is up already: imports, and the models that stay loaded."""
    try:
        warm()
    finally:
        # What is imported stays. Looking through it for garbage would stop everybody for a quarter second.
        gc.collect()
        gc.freeze()
        gc.enable()
    for offer in pinned:
        try:
            models.preload(offer)
        except DemoError as error:
            logging.getLogger("tour").warning("%s is not preloaded: %s", offer.recipe.task, error)
    ready.set()


def stop(line: Line) -> None:
    """Let the runs under way finish, or tell their visitors that they do not."""
    log = logging.getLogger("tour")
    log.info("stopping: %d runs under way, %d waiting", *line.counts())
    finished = line.close(GRACE, TELLING)
    time.sleep(SENDING)
    log.info("stopped: %s", "all runs finished" if finished else "some runs were broken off")


def routes(metrics: Metrics, line: Line, ready: threading.Event, settings: Settings) -> list[Route]:
    """What machines ask: /healthz and /readyz, and /metrics for Prometheus, without a password."""

    def state() -> dict[str, bool]:
        return {"alive": True, "ready": ready.is_set() and not line.closing}

    def alive(request: Request) -> Response:
        return JSONResponse(state())

    def is_ready(request: Request) -> Response:
        return JSONResponse(state(), 200 if state()["ready"] else 503)

    def measured(request: Request) -> Response:
        client = request.client.host if request.client else ""
        headers, version = request.headers, request.scope.get("http_version", "1.1")
        # A proxy is near as well; whom it speaks for is not known to be.
        near = is_private_address(client) and is_private(headers) and not is_forwarded(headers, version)
        if (settings.exposed or is_far(headers, version)) and not near:
            return PlainTextResponse("Metrics are for this machine and its network only.", 403)
        return Response(metrics.text(), media_type=TYPE)

    def gone(request: Request) -> Response:
        return PlainTextResponse("Not here.", 404)

    # What Gradio has for those who write an app would keep a task busy for each who asks.
    closed = Route("/gradio_api/dev/reload", gone)
    return [Route("/healthz", alive), Route("/readyz", is_ready), Route("/metrics", measured), closed]


def users_of(settings: Settings) -> dict[str, str]:
    """Who may enter; a public link for which nobody was named gets a user and a password, printed here.

    Raises SystemExit for an --auth that cannot be read.
    """
    try:
        users = read_users(settings.auth)
    except ValueError as error:
        sys.exit(f"--auth: {error}.")
    if settings.share and not users and not settings.public:
        users = {GUEST: new_password()}
        print(f"The page asks for a user and a password: {GUEST}, {users[GUEST]}", flush=True)
    return users


def share(app: gr.Blocks) -> str | None:
    """The address of a tunnel to the app, or None with a sentence why there is none."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            address = networking.setup_tunnel(app.server_name, app.server_port, app.share_token, None, None)
    except Exception as error:  # whatever keeps the tunnel from being made, the page stays up
        logging.getLogger("tour").debug("tunnel: %s", heard.getvalue(), exc_info=True)
        why = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        print(f"There is no public link ({why}); the page stays up at {app.local_url}", flush=True)
        return None
    return address.replace("http://", "https://", 1)


def where(settings: Settings) -> tuple[str, int]:
    """Host and port to listen on, with the app's own addresses freed of proxies. Raises SystemExit."""
    try:
        if settings.ssl_certfile and settings.ssl_keyfile:
            addresses.check_certificate(settings.ssl_certfile, settings.ssl_keyfile)
        host, port = addresses.listening(settings.host, settings.port)
    except ValueError as error:
        sys.exit(str(error))
    addresses.go_direct(os.environ, host)
    return host, port


def main(settings: Settings, kept: uploads.Folder | None = None) -> None:
    """kept: the folder for what visitors upload, Gradio's own if not given."""
    logs.set_up(settings.log_format, settings.exposed)
    # Marian works without it; it would only make quotation marks and dashes uniform.
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    if hosting.on_space(os.environ):
        settings = replace(settings, share=False)  # it has an address of its own
    hub, metrics, ready = HubStatus(), Metrics(), threading.Event()
    limits = Limits(settings.requests_per_minute, far_only=not settings.exposed)
    line = Line(settings.queue, limits, metrics.ended)
    models = (create_lent if hosting.zero_gpu(os.environ) else create_manager)(settings, hub)
    metrics.watch(line, models)
    pinned, users = preloaded(settings), users_of(settings)
    host, port = where(settings)
    app = create_app(models, settings, hub, line)
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: leaving.set())
    try:
        app.launch(
            server_name=host,
            server_port=port,
            share=False,  # see below: the page should be up before
            quiet=True,
            auth=Door(users) if users else None,
            root_path=settings.root_path,
            ssl_certfile=str(settings.ssl_certfile) if settings.ssl_certfile else None,
            ssl_keyfile=str(settings.ssl_keyfile) if settings.ssl_keyfile else None,
            ssl_verify=False,  # asked of itself, under a name that the certificate is not for
            max_file_size=int(settings.max_upload * 1e6),
            run_history=settings.keeps_history,
            mcp_server=settings.mcp,
            app_kwargs={"routes": routes(metrics, line, ready, settings)},
            enable_monitoring=False,
            theme=ui.theme(),
            css_paths=ui.STYLE,
            head_paths=[ui.SCRIPT, ui.LINKS],
            prevent_thread_lock=True,
            max_threads=MOST_EVENTS,
            state_session_capacity=MOST_SESSIONS,
            ssr_mode=False,
            footer_links=["api", "settings", "runs"],
        )
    except OSError:
        logging.getLogger("tour").debug("launch", exc_info=True)
        sys.exit(f"Port {port} is in use. Stop what listens there, or choose another with --port.")
    if settings.mcp and not app.mcp_server_obj:
        sys.exit(f"--mcp: {app.mcp_error}")
    if app.mcp_server_obj:
        agents.fit(app.mcp_server_obj, settings.mcp_files)
    if kept:
        kept.watch({path for block in app.blocks.values() for path in getattr(block, "keep_in_cache", ())})
    print(f"The page is up at {addresses.reached_at(str(app.local_url))}", flush=True)
    threading.Thread(target=prepare, args=(models, pinned, ready), name="prepare", daemon=True).start()
    if settings.share and (address := share(app)):
        print(f"The public link is {address}", flush=True)
    with suppress(KeyboardInterrupt):
        leaving.wait()
    stop(line)  # the server ends with the process
    if line.counts()[0]:
        # A step of a model is under way that nobody waits for; Python cannot end in the middle of one.
        logging.shutdown()
        for tunnel in tunneling.CURRENT_TUNNELS:
            tunnel.kill()
        if kept:
            kept.remove()
        os._exit(0)


if __name__ == "__main__":
    main(SETTINGS, UPLOADS)
