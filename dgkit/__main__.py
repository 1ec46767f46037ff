"""``python -m dgkit`` is the ``dgkit`` command."""

import sys

from dgkit.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
