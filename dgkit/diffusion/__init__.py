"""The sampler: schedule, tiles, denoiser wrappers, the two-pass sampler, style swap, loading."""
