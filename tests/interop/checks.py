"""Counts checks, and says each in one line."""

import sys

passed = failed = 0


def check(what: str, holds: bool, found: object = "") -> None:
    """Says whether `what` holds; `found` is printed where it does not."""
    global passed, failed
    if holds:
        passed += 1
        print(f"ok    {what}")
    else:
        failed += 1
        print(f"FAIL  {what}: {found}" if found != "" else f"FAIL  {what}")
    sys.stdout.flush()


def finish() -> None:
    """Ends the process with the count."""
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
