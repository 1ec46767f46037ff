# dgkit train segmenter training/segmenter/daformer_mitb5.py --out runs/daformer
# Hardware: one GPU (DGInStyle: RTX 2080 Ti). Time and accuracy: not yet measured with dgkit.
# Equals DGInStyle's id 60, with the ImageNet feature distance. Its source is 6,000 images selected by class beforehand.
_base_ = ["base.py"]
head = "daformer"
backbone = "mit_b5"
pretrained = "nvidia/mit-b5"
feature_distance = {"weight": 0.005, "classes": (6, 7, 11, 12, 13, 14, 15, 16, 17, 18), "min_ratio": 0.75}
