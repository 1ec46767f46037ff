"""Processes that start with packages already imported."""

import multiprocessing
import sys

import pytest

# What a run of dgkit generate imports.
GENERATION = (
    "diffusers.models.controlnets.controlnet",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "dgkit.diffusion.loading",
    "dgkit.diffusion.sampler",
    "dgkit.generation.run",
)


def fork_server(*packages: str) -> multiprocessing.context.ForkServerContext:
    """Return a context whose processes start with ``packages``: a kill then costs a second, not ten."""
    if sys.platform == "win32":
        pytest.skip("needs SIGKILL and a fork server")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(packages))
    return context
