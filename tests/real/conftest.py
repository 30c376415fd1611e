"""These tests need a real Ollama: the one at OLLAMA_URL, with the model MODEL. `make real-ollama` runs them."""

import os

import pytest


@pytest.fixture(autouse=True)
def real_ollama() -> None:
    if os.environ.get("HERMES_REAL") != "1":
        pytest.skip("needs a real Ollama: make real-ollama")
