"""The clients against the engines (`make conformance`, docs/development.md), told in docs/compatibility.md."""

import argparse
from contextlib import AbstractContextManager
from typing import Any

from tests.conformance import engines, page
from tests.conformance.engines import Engine
from tests.conformance.environments import clients
from tests.conformance.gateway import gateway
from tests.conformance.tasks import TASKS, outcomes


def main() -> None:
    options = _options()
    known = clients()
    chosen = [client for client in known if not options.client or client.name in options.client]
    for client in chosen:
        print(f"{client.name}: {client.versions}", flush=True)
        client.command()
    failed = 0
    for opened in _engines(options):
        with opened as engine, gateway(engine) as hermes:
            told: dict[str, Any] = {"kind": engine.kind, "version": engine.version, "clients": {}}
            for client in chosen:
                print(f"  {client.name} at {engine.title}", flush=True)
                found = outcomes(client, engine, hermes)
                failed += sum(wrong is not None for wrong in found.values())
                told["clients"][client.name] = {"versions": client.versions, "outcomes": found}
                page.save(engine.title, told, known, {name: task.told for name, task in TASKS.items()})
    print(f"{failed} failed")
    raise SystemExit(bool(failed))


def _engines(options: argparse.Namespace) -> list[AbstractContextManager[Engine]]:
    chosen: list[AbstractContextManager[Engine]] = [] if options.no_simulated else [engines.simulated()]
    if options.llama_server:
        chosen += engines.llama_servers(options.llama_server), engines.llama_processes(options.llama_server)
    if options.llama_router:
        chosen.append(engines.llama_router(options.llama_router))
    if options.ollama:
        chosen.append(engines.real_ollama(options.ollama))
    return chosen


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", metavar="PROGRAM", help="llama-server, to run and to have run by Hermes")
    parser.add_argument("--llama-router", metavar="PROGRAM", help="a llama-server that was built with its router")
    parser.add_argument("--ollama", metavar="URL", help="an Ollama that may be given a few models for a while")
    parser.add_argument("--no-simulated", action="store_true", help="not the simulated Ollama")
    parser.add_argument("--client", action="append", metavar="NAME", help="only this one; may be given several times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
