"""Write the passport of a data set, which holds the digests of its shards and a checksum of itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genre_jax import checksum
from genre_jax.atomic import write_text
from genre_jax.data import shards


def write(folder: Path, facts: dict[str, Any], places: Mapping[str, Mapping[str, Path]] | None = None) -> None:
    """Write `facts` as the passport.json of the data set in `folder`, with the digests of its shards.

    Args:
      folder: folder of the data set.
      facts: at least "name", "sample_rate", "labels" and "splits", a dict of the facts of each split, to which this function
        adds the digests as "shards": {file name: digest}.
      places: {split: {file name of a shard: where it lies now}}; None if the shards lie in `folder`.
    """
    splits = {}
    for split, about in facts["splits"].items():
        here = {path.name: path for path in sorted(folder.glob(f"*-{split}.tfrecord-*"))} if places is None else places[split]
        found = shards.digests(shards.scan([*here.values()], facts["labels"]), len(here))
        splits[split] = about | {"shards": dict(zip(here, found, strict=True))}
    passport = json.loads(json.dumps(facts | {"splits": splits}))
    write_text(folder / "passport.json", json.dumps(passport | {"sha256": checksum.of_json(passport)}, ensure_ascii=False))
