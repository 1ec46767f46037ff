# dgkit train segmenter training/segmenter/mask2former_swin_tiny.py --out runs/mask2former_swin
# Hardware: one GPU of 24 GB (Mask2Former: 8 V100). Time and accuracy: not yet measured with dgkit.
# Mask2Former (Cheng et al., CVPR 2022) with its constants for Cityscapes: 90,000 iterations, batch 16, AdamW 1e-4, the
# encoder at a tenth of that, gradients clipped to 0.01. Differences: the crop is 512 x 512 here, 512 x 1024 there; the
# short side is drawn from all integers, there from 16 values; drop path is that of the folder, 0.3 there. Swin-T: MIT
# licence, ImageNet weights.
_base_ = ["base.py"]
head = "mask2former"
backbone = "transformers:microsoft/swin-tiny-patch4-window7-224"
data = {"short_sides": (512, 2048), "rare_classes": None, "cat_max_ratio": 1.0}
train = {
    "steps": 90000,
    "batch": 16,
    "lr": 1e-5,
    "head_lr": 10.0,
    "weight_decay": 0.05,
    "warmup": 0,
    "power": 0.9,
    "clip": 0.01,
}
