# dgkit train segmenter training/segmenter/daformer_mitb5.py --out runs/daformer
# Hardware: one GPU (DGInStyle: RTX 2080 Ti). Time and accuracy: not measured with dgkit yet.
_base_ = ["base.py"]
head = "daformer"
backbone = "mit_b5"
pretrained = "nvidia/mit-b5"
