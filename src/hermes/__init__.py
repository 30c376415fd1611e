"""Hermes: a small gateway in front of the LLM servers on your own hardware."""

__version__ = "0.1.0"
