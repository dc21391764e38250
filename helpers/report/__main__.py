"""`python -m helpers.report`: build the pages."""

import sys

try:
    from helpers.report import build  # importing torch takes seconds, in which a person may press Ctrl-C
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(build.main())
