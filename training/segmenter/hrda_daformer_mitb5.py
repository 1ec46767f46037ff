# dgkit train segmenter training/segmenter/hrda_daformer_mitb5.py --out runs/hrda
# Hardware: one GPU (DGInStyle: Titan RTX, 24 GB). Time and accuracy: not measured with dgkit yet.
# DGInStyle's id 61 also uses SHADE, which dgkit does not offer; its share of generated images is 0.194.
_base_ = ["base.py"]
head = "daformer"
backbone = "mit_b5"
two_scales = True
pretrained = "nvidia/mit-b5"
data = dict(
    source=dict(scale=(2560, 1440)),
    crop=1024,
    share=0.194,
    rare_classes=dict(min_crop_ratio=2.0),
    val=dict(scale=(2048, 1024)),
)
