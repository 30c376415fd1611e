"""The class that a backend's `plugin` names: by `module:Class`, or as an entry point of the group `hermes.backends`."""

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from hermes.custom import Backend
from hermes.custom.guard import is_path
from hermes.errors import ConfigError

GROUP = "hermes.backends"


def made(plugin: str) -> Backend:
    """One of the class. Raises ConfigError for whatever is wrong with it."""
    found = _by_path(*plugin.split(":", 1)) if ":" in plugin else _by_entry_point(plugin)
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise ConfigError(f"{plugin} is not a class made from hermes.custom.Backend")
    for name in ("listing", "completes", "render_request", "decoder", "error", "failure", "render_embed", "embeddings"):
        _check_method(plugin, getattr(found, name), getattr(Backend, name))
    try:
        backend = found()
    except (Exception, SystemExit) as error:  # what it lacks is a TypeError
        raise ConfigError(f"{plugin} cannot be made: {_said(error)}") from error
    _check_values(plugin, backend)
    return backend


def _by_path(module: str, name: str) -> Any:
    try:
        found = import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            hint = "install it, or name its folder in PYTHONPATH"
            raise ConfigError(f"there is no module {error.name!r}: {hint}") from error
        raise ConfigError(f"the module {module!r} cannot be imported: {_said(error)}") from error
    if not hasattr(found, name):
        own = [each for each, value in vars(found).items() if isinstance(value, type) and value.__module__ == module]
        raise ConfigError(f"the module {module!r} has no class {name!r}; it has: {', '.join(own) or 'none'}")
    return getattr(found, name)


def _by_entry_point(name: str) -> Any:
    there = {point.name: point for point in entry_points(group=GROUP)}
    if name not in there:
        hint = f"there are: {', '.join(there)}" if there else "no package here has any"
        raise ConfigError(f"{name!r} is no entry point of the group {GROUP}, {hint}; or name a module:Class")
    try:
        return there[name].load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"the entry point {name!r} cannot be loaded: {_said(error)}") from error


def _check_method(plugin: str, own: Any, ours: Any) -> None:
    """That it can be called as it will be: at once, with as much."""
    if not callable(own) or inspect.iscoroutinefunction(own) or inspect.isasyncgenfunction(own):
        raise ConfigError(f"{plugin}.{ours.__name__} has to be a plain method: nothing is awaited in it")
    arguments = list(inspect.signature(ours).parameters)
    try:
        inspect.signature(own).bind(*arguments)
    except TypeError as error:
        takes = ", ".join(arguments[1:])
        raise ConfigError(f"{plugin}.{ours.__name__} has to take ({takes}): {error}") from error


def _check_values(plugin: str, backend: Backend) -> None:
    """The scheduler goes by them, for all backends."""
    asks = getattr(backend, "asks", None)
    if not (isinstance(asks, tuple) and asks and all(map(is_path, asks))):
        raise ConfigError(f"{plugin} has to say what it `asks`: a tuple of paths, each beginning with a /")
    if backend.slots is not None and not (type(backend.slots) is int and backend.slots > 0):
        raise ConfigError(f"{plugin}.slots has to be a whole number above 0, or None")
    for name in ("settles", "forces_tools", "embeds"):
        if type(getattr(backend, name)) is not bool:
            raise ConfigError(f"{plugin}.{name} has to be True or False")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
