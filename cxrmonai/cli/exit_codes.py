"""What a command ends with, besides 0 (done) and 1 (nothing done, the reason on stderr)."""

SOME_SKIPPED = 3
