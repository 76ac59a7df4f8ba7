"""Write the passport of a data set, which holds the digests of its shards and a checksum of itself."""

import json
from pathlib import Path
from typing import Any

from genre_jax.atomic import write_text
from genre_jax.data import locate, shards


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Write `facts` as the passport.json of the data set in `folder`, with the digests of the shards that lie there.

    `facts` holds at least "name", "sample_rate", "labels" and "splits", a dict of the facts of each split, to which the digests
    are added as "shards": {file name: digest}.
    """
    splits = {}
    for split, about in facts["splits"].items():
        paths = sorted(folder.glob(f"*-{split}.tfrecord-*"))
        found = shards.digests(shards.scan(paths, facts["labels"]), len(paths))
        splits[split] = about | {"shards": dict(zip((path.name for path in paths), found, strict=True))}
    passport = json.loads(json.dumps(facts | {"splits": splits}))
    write_text(folder / "passport.json", json.dumps(passport | {"sha256": locate.checksum(passport)}, ensure_ascii=False))
