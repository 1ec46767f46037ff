# dgkit train segmenter training/segmenter/daformer_mitb5.py --out runs/daformer
# Hardware: one GPU (DGInStyle: RTX 2080 Ti). Time and accuracy: not measured with dgkit yet.
# As DGInStyle's id 60, with the ImageNet feature distance; its source is 6,000 pictures chosen by class beforehand.
_base_ = ["base.py"]
head = "daformer"
backbone = "mit_b5"
pretrained = "nvidia/mit-b5"
feature_distance = dict(weight=0.005, classes=(6, 7, 11, 12, 13, 14, 15, 16, 17, 18), min_ratio=0.75)
