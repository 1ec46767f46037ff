# dgkit train segmenter training/segmenter/rein_dinov2_small.py --out runs/rein_small
# Hardware: one GPU of 11 GB. Time and accuracy: not yet measured with dgkit. Published, trained on
# GTA5 alone: Cityscapes 55.3 mIoU (protocol half), as DAFormer with DGInStyle's images. As rein_dinov2_large.py, with
# DINOv2-S.
_base_ = ["rein_dinov2_large.py"]
backbone = "transformers:facebook/dinov2-small"
blocks = (2, 5, 8, 11)
