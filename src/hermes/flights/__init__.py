"""What stands between a request and a run of its own: answers that were given before, and runs that several share."""
