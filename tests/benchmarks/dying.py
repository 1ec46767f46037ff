"""A worker that ends as its task says, for the tests of the process that waits for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    subject = json.load(sys.stdin)["subject"]
    if subject == "half":
        Path(sys.argv[1]).write_text(
            json.dumps({"cells": [{"batch": 1, "ms_sample": 2.0}], "error": "", "done": False})
        )
    if subject == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        sys.stderr.write(f"child {child.pid}\n")
        sys.stderr.flush()
        time.sleep(600)
    if subject == "exit":
        sys.exit("a library said goodbye\n")
    os.kill(os.getpid(), signal.SIGABRT if subject == "abort" else signal.SIGKILL)


main()
