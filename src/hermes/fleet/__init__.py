"""The backends as they are: watched, asked, reported. The fleet executes and observes; it decides only who pulls."""
