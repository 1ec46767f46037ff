import multiprocessing
import sys

import pytest


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Processes that start with torch already imported."""
    if sys.platform == "win32":
        pytest.skip("needs SIGKILL and a fork server")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fits", "torch.utils.tensorboard", "torch._dynamo"])
    return context
