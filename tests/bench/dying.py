"""A worker whose task says how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    if sys.argv[1] != "--keep":
        end(json.load(sys.stdin)["subject"], Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        end(request["task"]["subject"], Path(request["result"]))


def end(subject: str, result: Path) -> None:
    if subject in ("half", "fine", "last"):
        cells = [{"batch": 1, "ms_sample": 2.0, "pid": os.getpid()}]
        result.with_suffix(".new").write_text(json.dumps({"cells": cells, "error": "", "done": subject != "half"}))
        result.with_suffix(".new").rename(result)
    if subject == "last":
        os._exit(1)
    if subject == "fine":
        return
    if subject == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        sys.stderr.write(f"child {child.pid}\n")
        sys.stderr.flush()
        time.sleep(600)
    if subject == "exit":
        sys.exit("a library said goodbye\n")
    os.kill(os.getpid(), signal.SIGABRT if subject == "abort" else signal.SIGKILL)


main()
