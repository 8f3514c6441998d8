"""Exit codes, those of sysexits.h where it has one. Standard library only: keeper, manager and commands share them."""

DONE, FAILED = 0, 1
USAGE = 64
UNAVAILABLE = 69  # the lock store
DEFECT = 70  # of btw
BUSY = 75  # somebody else has it
CONFIGURATION = 78
#: Of a manager that ended to be replaced, leaving everything as it is. sysexits.h ends at 78.
LEFT = 79
INTERRUPTED = 130  # Ctrl-C, as shells say it
