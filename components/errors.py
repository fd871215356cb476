"""Errors a visitor is told about: each message is one or two plain sentences, with what to do."""


class DemoError(Exception):
    """What the interface shows as it stands; everything else is logged and gets a reference number."""


class InputError(DemoError):
    """What the visitor gave cannot be used."""


class CheckpointError(DemoError):
    """The checkpoint does not exist, does not fit the task, or cannot be fetched."""


class ModelLoadError(DemoError):
    """The checkpoint is here but does not load, or does not fit into memory."""


class OutOfMemory(DemoError):
    """The device ran out of memory while the model was at work."""


class NotFinite(DemoError):
    """The model gave NaN or infinity."""


class Cancelled(DemoError):
    """The visitor stopped the run before there was anything to show."""


class Busy(DemoError):
    """Too many visitors are waiting already."""
