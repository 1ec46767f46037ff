"""The extras of the package, which its metadata and `dgkit doctor` name."""

EXTRAS = frozenset(
    ["cpu", "int8", "modelopt", "gpu", "rtx", "seg", "imagenet", "train", "lora", "ray", "outputs", "app", "docs",
     "dev"]
)  # fmt: skip
