"""These tests need a real Ollama: the one at OLLAMA_URL, with the model MODEL. `make real-ollama` runs them."""

import os

collect_ignore_glob = [] if os.environ.get("HERMES_REAL") == "1" else ["test_*.py"]
