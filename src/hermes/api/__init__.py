"""The HTTP API: who may come in, which route a path means, and what each route does."""
