import multiprocessing

import pytest

from tests.fork_server import fork_server


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Processes that start with torch already imported."""
    return fork_server("tests.fits", "torch.utils.tensorboard", "torch._dynamo")
