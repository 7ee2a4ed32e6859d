"""ImageNet: what its shards are to be like, which nothing here can make from what is installed."""

NAME = "imagenet"


def remedy(folder: str, image_size: int) -> str:
    """Say what to do where these shards are missing or damaged."""
    return (
        f"expected ImageNet in {folder} as WebDataset shards train-*.tar and held_out-*.tar (key.png of "
        f"{image_size} x {image_size} pixels, key.cls) with jitlab's index.json, laid out as data/README.md says; "
        "put them there, or set data.path"
    )
