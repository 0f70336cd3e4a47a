"""The entry point of the command `nightmill`: the command line, or why its packages can't be imported."""

import sys


def main() -> None:
    """Run the command line; exit code 2 if a package of another distribution stands in the place of nightmill's."""
    try:
        from console.cli import main as run  # noqa: PLC0415 - may fail
    except ImportError:
        from console.shadowed_packages import ADVICE, clashes  # noqa: PLC0415

        found = clashes()
        if not found:
            raise
        sys.stderr.write(f"error: {'; '.join(found)}: {ADVICE}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
