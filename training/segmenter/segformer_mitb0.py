# dgkit train segmenter training/segmenter/segformer_mitb0.py --out runs/segformer_b0
# The smallest network, for small GPUs and tests. Time and accuracy: not yet measured with dgkit.
_base_ = ["base.py"]
head = "segformer"
backbone = "mit_b0"
pretrained = "nvidia/mit-b0"
