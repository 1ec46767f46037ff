"""Device memory that the networks of a model need while it generates scenes."""

from collections.abc import Mapping

from dgkit.config import load_config
from dgkit.diffusion.components import model_networks
from dgkit.diffusion.model_folder import ModelSource
from dgkit.diffusion.passes import VAE_PIXELS
from dgkit.diffusion.pipeline import TEXT_BATCH
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.memory_estimate import MemoryNeed, estimate
from dgkit.engines.runner import Network


def model_needs(
    model: ModelSource, dtype: str, batch: int, engine: str = "torch", networks: Mapping[str, Network] | None = None
) -> list[MemoryNeed]:
    """Return the memory of each network in a run with ``batch`` denoiser samples per call.

    ``dtype`` is that of the run; each network has its own, as a recipe with this ``engine`` says. The text encoder and
    the VAE take as many samples per call as on a GPU. Raises UsageError for an unknown engine or dtype, or a batch
    below 1.
    """
    found = networks or model_networks(model)
    images = max(1, VAE_PIXELS // model.info.size**2)
    batches = {"text_encoder": TEXT_BATCH, "vae_encoder": images, "vae_decoder": images}
    recipe = load_config(EngineRecipe, engine=engine, dtype=dtype)
    dtypes = {name: recipe.choice(name, network.fp16)[1] for name, network in found.items()}
    return [estimate(network, dtypes[name], batches.get(name, batch)) for name, network in found.items()]
