"""A coverage-guided fuzzer on one of the parsers: what it finds is kept beside the folder of its inputs."""

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["hermes"]):
    from tests.hostile.fuzz import TARGETS


def main(name: str, seconds: str, corpus: str) -> None:
    target, folder = TARGETS[name], Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    words = folder.with_suffix(".words")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    bounds = (f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-verbosity=0", "-print_final_stats=1")
    atheris.Setup([name, *bounds, f"-dict={words}", f"-artifact_prefix={folder}-", str(folder)], target.check)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(*sys.argv[1:])
