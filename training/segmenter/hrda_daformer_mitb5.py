# dgkit train segmenter training/segmenter/hrda_daformer_mitb5.py --out runs/hrda
# Hardware: one GPU (DGInStyle: Titan RTX, 24 GB). Time and accuracy: not measured with dgkit yet.
# As DGInStyle's id 61: SHADE, the ImageNet feature distance, and a share of 0.194 of generated images. A comment in its
# code says "w/o SHADE", its values turn it on. SHADE doubles the batch: without it, --set shade=null.
_base_ = ["base.py"]
head = "daformer"
backbone = "mit_b5"
two_scales = True
pretrained = "nvidia/mit-b5"
feature_distance = dict(weight=0.005, classes=(6, 7, 11, 12, 13, 14, 15, 16, 17, 18), min_ratio=0.75)
shade = dict(styles=64, refresh=4000, concentration=1 / 64, weight=10.0)
data = dict(
    source=dict(scale=(2560, 1440)),
    crop=1024,
    share=0.194,
    rare_classes=dict(min_crop_ratio=2.0),
    val=dict(scale=(2048, 1024)),
)
