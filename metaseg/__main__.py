"""``python -m metaseg`` is ``metaseg``."""

from metaseg.cli.main import run

if __name__ == "__main__":
    run()
