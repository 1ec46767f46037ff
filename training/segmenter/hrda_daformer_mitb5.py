# dgkit train segmenter training/segmenter/hrda_daformer_mitb5.py --out runs/hrda
# Hardware: one GPU (DGInStyle: Titan RTX, 24 GB). Time and accuracy: not yet measured with dgkit.
# Equals DGInStyle's id 61: SHADE, the ImageNet feature distance, and a share of 0.194 of generated images. A comment in
# its code says "w/o SHADE", but its values enable it. SHADE doubles the batch; disable it with --set shade=null.
_base_ = ["base.py"]
head = "daformer"
backbone = "mit_b5"
two_scales = True
pretrained = "nvidia/mit-b5"
feature_distance = {"weight": 0.005, "classes": (6, 7, 11, 12, 13, 14, 15, 16, 17, 18), "min_ratio": 0.75}
shade = {"styles": 64, "refresh": 4000, "concentration": 1 / 64, "weight": 10.0}
data = {
    "source": {"scale": (2560, 1440)},
    "crop": 1024,
    "share": 0.194,
    "rare_classes": {"min_crop_ratio": 2.0},
    "val": {"scale": (2048, 1024)},
}
