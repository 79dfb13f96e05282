"""The command line: one module per command."""


def main() -> None:
    """Run `holdfast`. The commands are imported when it is called."""
    from .app import main as run

    run()
