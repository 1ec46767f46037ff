# dgkit train segmenter training/segmenter/rein_dinov2_base.py --out runs/rein_base
# Hardware: one GPU of 16 GB. Time and accuracy: not yet measured with dgkit. Published, trained on
# GTA5 alone: Cityscapes 64.3 mIoU (protocol half). As rein_dinov2_large.py, with DINOv2-B.
_base_ = ["rein_dinov2_large.py"]
backbone = "transformers:facebook/dinov2-base"
blocks = (2, 5, 8, 11)
