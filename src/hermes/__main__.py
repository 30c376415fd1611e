"""`python -m hermes`, and what the commands `hermes` and `hermes-sidecar` run."""

from hermes.cli import main

if __name__ == "__main__":
    main()
