"""ZeroGPU: how does a run come to a GPU that is lent for one call at a time?

On this hardware of Spaces there is no GPU but inside of a function that `spaces.GPU` decorates. The package
`spaces` forks a process for the call, moves to the GPU what was put there before the page opened, pickles
arguments and answers, and throws away what the process changes. The steps of a run, which share caches and
batches, cannot go there one by one as they go to the thread of a device: a whole run does. All else, such as
what looks inside a run, is computed here, on the CPU.
https://huggingface.co/docs/hub/spaces-zerogpu
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import Cancelled, DemoError
from components.models.manager import ModelManager
from components.progress import Progress, Report, Stopped
from components.weights.checkpoints import Offer

log = logging.getLogger("tour")

WAITING = Progress("waiting for a GPU")


@dataclass(frozen=True)
class Failed:
    """How a run ended there. error: what its visitor is told, None if it is ours to look into."""

    error: DemoError | None
    what: str = ""


class Away:
    """Runs done where the GPU is; see `ModelManager.away`.

    gpu: `spaces.GPU`, called before the page opens; models: what the process takes along. Nothing in this
    process uses that manager once the page is open, so that none of its locks is held when a process is
    forked off, and it has no threads that would be missing there.
    """

    def __init__(self, gpu: Callable[[Callable[..., Any]], Callable[..., Any]], models: ModelManager) -> None:
        self._models = models
        self._there = gpu(self._steps)

    def __call__(
        self, run: Callable[..., Any], name: str, given: Mapping[str, Any], report: Report, stopped: Stopped
    ) -> Iterator[Any]:
        """What `run(**given)` yields, or returns, with the other manager as its argument `name`.

        run: a function that can be pickled, by its name; given: values that can. Raises DemoError: what the
        run raises, that no GPU is free or the visitor's quota is used up, Cancelled if the visitor stops;
        the step under way is waited for then.
        """
        report(WAITING)
        steps = self._there(run, name, dict(given))
        try:
            for step in steps:
                if isinstance(step, Failed):
                    raise step.error or RuntimeError(f"in the process with the GPU: {step.what}")
                yield step
                if stopped():
                    raise Cancelled("Stopped.")
        except (DemoError, GeneratorExit):
            raise
        except Exception as error:
            # Gradio's error, with which `spaces` says that there is no GPU now.
            if not isinstance(message := getattr(error, "message", None), str):
                raise
            raise DemoError(f"This run got no GPU: {message}") from error
        finally:
            steps.close()

    def _steps(self, run: Callable[..., Any], name: str, given: Mapping[str, Any]) -> Iterator[Any]:
        """In the process with the GPU. An error is an answer: pickled, it would lose its class."""
        try:
            answer = run(**given, **{name: self._models})
            if isinstance(answer, Generator):
                yield from answer
            else:
                yield answer
        except DemoError as error:
            yield Failed(error)
        except Exception as error:
            log.exception("a run ended in an error that it should have answered for")
            yield Failed(None, repr(error))


def placed(models: ModelManager, offers: list[Offer]) -> ModelManager:
    """The same manager with the model of each offer on the GPU; one that does not load is left out.

    Call it in the main thread before the page opens: only there, and until then, does `spaces` see what is
    put on the GPU. The manager's loads must not have threads of their own.
    """
    for offer in offers:
        try:
            models.preload(offer)
        except DemoError as error:
            log.warning("%s is not on the GPU: %s", offer.recipe.task, error)
    return models
