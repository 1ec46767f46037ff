# dgkit train segmenter training/segmenter/eomt_dinov2_small.py --out runs/eomt_small
# Hardware: one GPU of 24 GB. Time and accuracy: not yet measured with dgkit; fast where it runs, since all is one ViT.
# EoMT (Kerssies et al., CVPR 2025): queries enter the last 3 blocks of DINOv2-S with registers (Apache-2.0), all of
# which learns, gradients clipped to 0.01. Differences from the published code: 40,000 iterations; crop 512 of short
# sides of 256 to 1024 pixels instead of twice these; warm-up of all weights at once, over its 1500 iterations; masked
# attention ends in equal parts of the training, as published for 4 blocks.
_base_ = ["base.py"]
head = "eomt"
backbone = "transformers:facebook/dinov2-with-registers-small"
patch = 16
data = {"short_sides": (256, 1024), "rare_classes": None, "cat_max_ratio": 1.0}
train = {
    "batch": 16,
    "lr": 1e-4,
    "head_lr": 1.0,
    "layer_decay": 0.8,
    "weight_decay": 0.05,
    "power": 0.9,
    "clip": 0.01,
}
