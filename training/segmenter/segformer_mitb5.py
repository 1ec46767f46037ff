# dgkit train segmenter training/segmenter/segformer_mitb5.py --out runs/segformer
# Hardware: one GPU (DGInStyle: RTX 2080 Ti). Time and accuracy: not yet measured with dgkit.
_base_ = ["base.py"]
head = "segformer"
backbone = "mit_b5"
pretrained = "nvidia/mit-b5"
