"""Training of the diffusion networks. Files are the contract with the rest of dgkit: diffusers model folders."""
