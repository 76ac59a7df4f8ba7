"""The folders that come with the package, and are not modules of it: the configs, and the facts taken from others.

A checkout has them beside the package. An installed package has them inside it (`package_dir` in setup.py).
"""

from pathlib import Path


def _folder(name: str) -> Path:
    installed = Path(__file__).with_name(name)
    return installed if installed.is_dir() else Path(__file__).parents[1] / name


CONFIGS, THIRD_PARTY = _folder("configs"), _folder("third_party")


def configs() -> dict[str, Path]:
    """Name → file of each shipped config."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.py"))}


def is_name(config: str) -> bool:
    """Whether a text stands for a shipped config by its name, such as "bytenet", and not for a file by its path."""
    return bool(config) and "/" not in config and not config.endswith(".py")
