"""The off switch of everything in this folder: ACCELERATE=0."""

import os


def switched_on() -> bool:
    """ValueError when $ACCELERATE is neither 0 nor 1."""
    switch = os.environ.get("ACCELERATE") or "1"
    if switch not in ("0", "1"):
        raise ValueError(f"ACCELERATE={switch} is no switch: 0 trains as torch does by itself, 1 faster")
    return switch == "1"
