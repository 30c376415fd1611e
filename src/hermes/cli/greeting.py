"""What `hermes serve` says when it has started: where it is, what it goes by, and what to do next.

On a terminal all that a newcomer needs; in a log a line for what it is, and one for each backend.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import click

from hermes import __version__, composition
from hermes.cli.log import is_read, log, tell
from hermes.cli.options import called
from hermes.config import Backend
from hermes.fleet.inventory import untagged
from hermes.lines import escaped
from hermes.policy.routing import candidates
from hermes.runtime import Runtime

# For a first look at the backends before it is told how to ask them; requests are served meanwhile.
_LOOK_S = 1.0


def greet(runtime: Runtime, file: Path | None, simulated: bool) -> None:
    """`file`: that of the configuration; None: there is none."""
    tell(f"Hermes {__version__} listens on {runtime.address}")
    if is_read():
        for what, told in _banner(runtime, file):
            click.echo(f"  {what:13} {escaped(told)}", err=True)
    else:
        if runtime.admin_address:
            tell(f"operators are listened to at {runtime.admin_address}")
        for backend in runtime.config.backends:
            tell(f"backend {backend.name}: {_where(backend)}")
    if simulated:
        tell("  SIMULATED: these models make text up; start Ollama to talk to real ones", logging.WARNING)


def _banner(runtime: Runtime, file: Path | None) -> Iterator[tuple[str, str]]:
    here = _from_here(runtime)
    if not runtime.config.server.unix_socket:
        yield "OpenAI's SDKs", f"{here}/v1"
        yield "others", f"{here} (Ollama's and Anthropic's)"
        if composition.shows_dashboard_to_clients(runtime.config):
            yield "dashboard", f"{here}/dashboard"
    if runtime.admin_address:
        yield "operators", runtime.admin_address + ("/dashboard" if runtime.config.admin.dashboard else "")
    yield "configuration", str(file) if file else "no file: as it is by default, and by variables and flags"
    yield "keys", _keys(runtime)
    for backend in runtime.config.backends:
        yield "backend", f"{backend.name}, {_where(backend)}"


def _keys(runtime: Runtime) -> str:
    if runtime.people.open:
        return f"none, all may ask. Make one: {called()} keys create NAME"
    issuers = [f"tokens of {issuer.name}" for issuer in runtime.config.jwt]
    count = len(runtime.people.table.principals)
    return ", ".join([f"{count} known", *issuers])


def _where(backend: Backend) -> str:
    return f"{backend.kind} " + (f"for {backend.model}, a process of ours" if backend.command else f"at {backend.url}")


def _from_here(runtime: Runtime) -> str:
    """Who listens on every address is found on loopback."""
    return runtime.address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


async def advise(runtime: Runtime) -> None:
    """What to do next, once the backends have been looked at."""
    await runtime.fleet.refresh(_LOOK_S)
    for backend in runtime.fleet.backends.values():
        if backend.state != "up":
            it = "Ollama" if backend.kind == "ollama" else "it"
            log.warning("backend %s does not answer at %s: start %s, or use --simulate", backend.name, backend.url, it)
    tell(f"  try: {_example(runtime)}")


def _example(runtime: Runtime) -> str:
    """A command to copy: as far as is known, one that works."""
    server = runtime.config.server
    to = f"--unix-socket {server.unix_socket} http://localhost" if server.unix_socket else _from_here(runtime)
    key = " -H 'Authorization: Bearer KEY'" if not runtime.people.open else ""
    return f"""curl {to}/v1/llm/{_some_model(runtime)}{key} -d '{{"prompt": "Explain relativity"}}'"""


def _some_model(runtime: Runtime) -> str:
    """The name of one that can be asked now: one that is loaded, if any is, and those of the configuration first."""
    catalog, backends = runtime.router.catalog, runtime.fleet.backends.values()
    inventories = runtime.fleet.inventories()
    served = {name: candidates(service, inventories) for name, service in catalog.listed.items()}
    found = [(name, each.resident) for name, each in served.items() if each.names]
    if catalog.unlisted is not None:
        for backend in backends:
            models = sorted(backend.inventory.models.items())
            able = [name for name, info in models if not info.capabilities or "completion" in info.capabilities]
            found += [(untagged(name), name) for name in able]
    loaded = {each.name for backend in backends for each in backend.inventory.loaded}
    return next((name for name, full in found if full in loaded), found[0][0] if found else "MODEL")
