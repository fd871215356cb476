"""Health: does the app of this container answer?

    python -m components.server.health [process]

asks /healthz where the process, 1 if not given, was told to listen, by options or variables; the exit status
is 0 for yes.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from components.server.addresses import FIRST
from components.settings import Settings, parse

EVERYWHERE = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}  # noqa: S104
SECONDS = 8.0


def told(process: int, environment: Mapping[str, str], processes: Path = Path("/proc")) -> Settings:
    """What that process was started with: the options behind app.py, and the variables of its container."""
    try:
        words = os.fsdecode((processes / str(process) / "cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        words = []
    at = next((place for place, word in enumerate(words, 1) if Path(word).name == "app.py"), len(words))
    return parse(words[at:], environment)


def address(settings: Settings) -> str:
    """Where it answers whether it is alive."""
    host = EVERYWHERE.get(settings.host) or str(settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    scheme = "https" if settings.ssl_certfile else "http"
    return f"{scheme}://{host}:{settings.port or FIRST}/healthz"


def main(process: int = 1) -> int:
    """0 if the app is alive, 1 if not."""
    url = address(told(process, os.environ))
    # Asked of itself, under a name that the certificate is not for, and never through a proxy.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=SECONDS) as answer:
            return int(answer.status != 200)
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
