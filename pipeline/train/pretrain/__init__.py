"""A generator's start without an adversary: dataset -> model (see `stage`)."""
