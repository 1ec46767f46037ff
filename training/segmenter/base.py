# Shared by the recipes of this folder: DGInStyle's schedule (40,000 iterations, batch 2, AdamW 6e-5, heads x 10) on
# GTA5 at 1280x720 and its generated images, half of the samples each. Edit the folders, or --set data.source.root=DIR
data = {
    "source": {"dataset": "gta", "root": "data/gta", "scale": (1280, 720)},
    "generated": ["data/generated"],
    "share": 0.5,
    "crop": 512,
    "rare_classes": {"temperature": 0.01, "min_pixels": 3000, "min_crop_ratio": 0.5},
    "val": {"dataset": "cityscapes", "root": "data/cityscapes", "split": "val", "scale": (1024, 512)},
}
train = {"steps": 40000, "batch": 2, "lr": 6e-5, "head_lr": 10.0, "warmup": 1500}
