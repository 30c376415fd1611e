"""These tests start llama-servers themselves: LLAMA_SERVER, with the models GGUF and, where there is one that thinks,
THINKER_GGUF. `make real-llamacpp` runs them."""

import pytest

from tests.real.llamacpp.engine import GGUF, LLAMA_SERVER


@pytest.fixture(autouse=True)
def real_ollama() -> None:
    """In place of the one for the tests around these, which need an Ollama."""
    if not (LLAMA_SERVER and GGUF):
        pytest.skip("needs a real llama-server and a model: make real-llamacpp LLAMA_SERVER=... GGUF=...")
