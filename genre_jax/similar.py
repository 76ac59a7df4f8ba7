"""Similar songs, playlists, and the recording that a clip is from: `python -m genre_jax.similar COMMAND …`.

    build FOLDER… [--index=DIR] [--workdir=NETWORK] [--prune]     embed the songs and take their fingerprints
    query SONG [--index=DIR] [--k=10] [--playlist=FILE] [--json]  the songs most similar to SONG
    query --tags="rock - guitar + synth" [the same options]       the songs nearest to a sum of tags
    lookup CLIP [--index=DIR] [--json]                            the recording that CLIP is from
    map [--index=DIR] --output=DIR                                a page with a map that plays the songs
    info [--index=DIR]                                            what the index holds

`build` takes files and folders. A second `build` adds what is new, replaces files that changed, and goes on after a kill.
--prune also removes the songs below FOLDER whose files are gone. A file that cannot be read is one line on standard error, and
the exit status is then 1. `query` names copies of SONG apart from the similar songs; SONG need not be in the index.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import genre_jax
from genre_jax import console, lock, tag_arithmetic, tag_inputs
from genre_jax.console import UserError, say
from genre_jax.logbook import clock
from genre_jax.recommend import build as builder
from genre_jax.recommend import lookup as recordings
from genre_jax.recommend import playlist as playlists
from genre_jax.recommend.index import Index, Network
from genre_jax.recommend.lookup import Recording
from genre_jax.recommend.neighbours import Neighbours
from genre_jax.recommend.segment import Song

WORKDIR = "musicnn"
TAGS = 3  # tags shown for a song


def build(names: list[str], folder: Path, workdir: str | None = None, prune: bool = False) -> int:
    """Build or extend an index from files and folders. Returns the exit status."""
    if not names:
        raise UserError("build needs at least one folder or file of songs: python -m genre_jax.similar build FOLDER")
    files: list[str] = []
    failed = 0
    for name in names:
        try:
            files += [os.path.abspath(file) for file in tag_inputs.audio_files(name)]
        except UserError as error:
            console.complain(error)
            failed += 1
    if not files:
        return 1
    tagger, network = _load(workdir or _source(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold(folder / "lock", f"another process extends the index {folder}: wait until it ends"):
        index = Index.open(folder) if _exists(folder) else Index(folder, network)
        _check_same(index, network)
        done, unread = builder.extend(index, tagger, list(dict.fromkeys(files)))
        gone = builder.missing(index, [os.path.abspath(name) for name in names]) if prune else []
        if gone:
            index.commit(removed=gone)
    removed = f", {len(gone):,} removed" if prune else ""
    say(f"{folder}: {len(index.songs()):,} songs; {done:,} added or replaced{removed}, {unread:,} not read")
    return 1 if failed or unread else 0


def query(
    names: list[str], folder: Path, workdir: str | None = None, k: int = 10, playlist: str | None = None, as_json: bool = False
) -> int:
    """Print the songs most similar to a song, and write the playlist. Returns the exit status."""
    name = _only(names, "query", "SONG")
    if playlist:
        playlists.check(Path(playlist))
    index = _open_with_songs(folder)
    songs = index.songs()
    source, vectors = tag_inputs.content(name), index.vectors()
    neighbours = Neighbours(vectors)
    own = next((number for number, song in enumerate(songs) if song.path == os.path.abspath(name)), None)
    if own is not None and not workdir and builder.stamp(name) == (songs[own].size, songs[own].modified):
        vector, windows = vectors[own], index.windows(own)
    else:
        tagger, network = _load(workdir or index.network.source)
        _check_same(index, network)
        tags = tagger.tags(source)
        vector, windows = tags.embeddings.mean(0), (tags.starts, tags.embeddings)
    copies = [found for found in recordings.search(index, recordings.listen(source)) if found.number != own]
    hidden = {own, *(copy.number for copy in copies)}
    pairs = zip(*neighbours.nearest(vector, k + len(hidden)), strict=True)
    nearest = [(int(number), float(cosine)) for number, cosine in pairs if number not in hidden][:k]
    tags_of = index.tags()
    rows = [
        {"similarity": round(cosine, 4)}
        | _song(songs[number], index.network.labels, tags_of[number])
        | _passage(neighbours, windows, index.windows(number))
        for number, cosine in nearest
    ]
    if playlist:
        playlists.write(Path(playlist), [(songs[number].path, songs[number].seconds) for number, _ in nearest])
    if as_json:
        same = [_recording(copy, songs) for copy in copies]
        say(json.dumps({"file": name, "same_recording": same, "similar": rows}, allow_nan=False))
        return 0
    for copy in copies:
        say(f"same recording: {console.printable(songs[copy.number].path)} ({copy.agreement:.0%} of the moments agree)")
    say(f"{'rank':>4}  {'similarity':>10}  {'most alike at':<15}  song")
    for rank, row in enumerate(rows, 1):
        say(f"{rank:>4}  {row['similarity']:>10.3f}  {clock(row['at']):>6} = {clock(row['song_at']):<6}  {_line(row)}")
    return 0


def query_tags(
    names: list[str], folder: Path, expression: str, k: int = 10, playlist: str | None = None, as_json: bool = False
) -> int:
    """Print the songs nearest to a sum of tags, and write the playlist. Returns the exit status."""
    if names:
        raise UserError(f"query takes a song or --tags, and was given {' '.join(names)!r} and --tags={expression!r}")
    if playlist:
        playlists.check(Path(playlist))
    index = _open_with_songs(folder)
    songs, tags, labels = index.songs(), index.tags(), index.network.labels
    standard = tag_arithmetic.standardised(index.vectors())
    cosine = tag_arithmetic.unit(standard) @ tag_arithmetic.tag_query(
        expression, labels, tag_arithmetic.tag_vectors(standard, tags)
    )
    nearest = np.argsort(-cosine, kind="stable")[:k]
    rows = [{"similarity": round(float(cosine[n]), 4)} | _song(songs[n], labels, tags[n]) for n in nearest]
    if playlist:
        playlists.write(Path(playlist), [(songs[n].path, songs[n].seconds) for n in nearest])
    if as_json:
        say(json.dumps({"tags": expression, "similar": rows}, allow_nan=False))
        return 0
    say(f"{'rank':>4}  {'similarity':>10}  song")
    for rank, row in enumerate(rows, 1):
        say(f"{rank:>4}  {row['similarity']:>10.3f}  {_line(row)}")
    return 0


def lookup(names: list[str], folder: Path, as_json: bool = False) -> int:
    """Print the recording that a clip is from. Returns the exit status: 0, also if there is no such recording."""
    name = _only(names, "lookup", "CLIP")
    index = _open_with_songs(folder)
    songs = index.songs()
    found = recordings.search(index, recordings.listen_to_clip(tag_inputs.content(name)))
    if as_json:
        say(json.dumps({"file": name, "recordings": [_recording(recording, songs) for recording in found]}, allow_nan=False))
    elif not found:
        say(f"{console.printable(name)}: no recording in the index matches")
    else:
        for recording in found:
            sure = f"{recording.agreement:.0%} of the moments agree; {recording.expected:.1g} recordings would do so by chance"
            say(f"{console.printable(songs[recording.number].path)}  at {clock(recording.offset)}  ({sure})")
    return 0


def write_map(names: list[str], folder: Path, output: str | None) -> int:
    """Write the map of the songs to `output/index.html`. Returns the exit status."""
    if names or not output:
        raise UserError("map needs --output=DIR, the folder of the page, and no other argument")
    from genre_jax.report import index_map

    say(f"map: {index_map.write_index_map(_open_with_songs(folder), output)}")
    return 0


def info(names: list[str], folder: Path) -> int:
    """Print what an index holds. Returns the exit status."""
    if names:
        raise UserError(f"info takes no argument, and was given {' '.join(names)!r}: use --index=DIR")
    index = Index.open(folder)
    songs = index.songs()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(
        f"{folder}: {len(songs):,} songs, {clock(sum(song.seconds for song in songs))} of audio, {size / 1e6:,.1f} MB; "
        f"network {index.network.source}, {len(index.network.answer)} dimensions, {len(index.network.labels)} labels"
    )
    return 0


def _load(source: str) -> tuple[Any, Network]:
    """Returns the tagger of a workdir, file or name, and its description for the passport of an index."""
    tagger = genre_jax.load(source)
    return tagger, Network.of(tagger, os.path.abspath(source) if os.path.exists(source) else source)


def _source(folder: Path) -> str:
    """Returns the network of an index that exists, or the default. Raises `UserError` for a folder that holds other files."""
    if _exists(folder):
        return Index.open(folder).network.source
    if folder.is_dir() and any(not path.name.startswith(("lock", "segment-", ".")) for path in folder.iterdir()):
        raise UserError(f"--index={folder} is a folder with other files: choose a new or empty folder for the index")
    return WORKDIR


def _exists(folder: Path) -> bool:
    return (folder / "index.json").exists()


def _check_same(index: Index, network: Network) -> None:
    if not index.network.same_as(network):
        raise UserError(
            f"{network.source} is not the network of the index {index.folder}, which was built with {index.network.source}: "
            f"use that network, or build another index"
        )


def _open_with_songs(folder: Path) -> Index:
    index = Index.open(folder)
    if not index.songs():
        raise UserError(f"the index {folder} holds no songs: run python -m genre_jax.similar build FOLDER --index={folder}")
    return index


def _only(names: list[str], command: str, what: str) -> str:
    if len(names) != 1:
        raise UserError(f"{command} needs one file, and was given {len(names)}: python -m genre_jax.similar {command} {what}")
    return names[0]


def _song(song: Song, labels: Sequence[str], mean: np.ndarray) -> dict[str, Any]:
    """Returns a song with its strongest tags as values of JSON."""
    strongest = np.argsort(-mean, kind="stable")[:TAGS]
    tags = {labels[label]: round(float(mean[label]), 4) for label in strongest}
    return {"file": song.path, "seconds": round(song.seconds, 3), "tags": tags}


def _passage(
    neighbours: Neighbours, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Returns where two songs are most alike, in seconds, from the starts and the embeddings of their windows."""
    at, song_at = neighbours.passage(first[1], second[1])
    return {"at": round(float(first[0][at]), 3), "song_at": round(float(second[0][song_at]), 3)}


def _recording(found: Recording, songs: Sequence[Song]) -> dict[str, Any]:
    """Returns a recording that was found as values of JSON."""
    return {
        "file": songs[found.number].path,
        "offset": round(found.offset, 3),
        "agreement": round(found.agreement, 4),
        "expected_by_chance": found.expected,
    }


def _line(row: dict[str, Any]) -> str:
    """Returns path and tags of a similar song as one line."""
    tags = ", ".join(f"{label} {probability:.0%}" for label, probability in row["tags"].items())
    return console.printable(f"{row['file']}  ({tags})")


def define_flags() -> None:
    """Define the flags of this command. Not at import, because `tag` has flags of the same names."""
    flags.DEFINE_string("index", "runs/similar", "Folder of the index.")
    flags.DEFINE_string(
        "workdir", None, f"Network of the embeddings; default: that of the index, or {WORKDIR} for a new index."
    )
    flags.DEFINE_bool("prune", False, "build: remove the songs below FOLDER whose files are gone.")
    flags.DEFINE_string("tags", None, "query: tags of the network with + or - between them, in place of SONG.")
    flags.DEFINE_integer("k", 10, "query: number of similar songs.", lower_bound=1)
    flags.DEFINE_string("playlist", None, "query: write the similar songs to this .m3u8 file.")
    flags.DEFINE_string("output", None, "map: folder of the page.")
    flags.DEFINE_bool("json", False, "query, lookup: print one JSON object.")


def main(argv: list[str]) -> int:
    """Run the command that the first argument names. Returns the exit status."""
    if len(argv) < 2:
        raise UserError(f"a command is needed, one of {', '.join(COMMANDS)}: python -m genre_jax.similar COMMAND …")
    command = console.pick("command", argv[1], COMMANDS)
    with console.silent_libraries():
        return command(argv[2:], Path(flags.FLAGS.index))


COMMANDS: dict[str, Callable[[list[str], Path], int]] = {
    "build": lambda names, folder: build(names, folder, flags.FLAGS.workdir, flags.FLAGS.prune),
    "query": lambda names, folder: (
        query(names, folder, flags.FLAGS.workdir, flags.FLAGS.k, flags.FLAGS.playlist, flags.FLAGS.json)
        if flags.FLAGS.tags is None
        else query_tags(names, folder, flags.FLAGS.tags, flags.FLAGS.k, flags.FLAGS.playlist, flags.FLAGS.json)
    ),
    "lookup": lambda names, folder: lookup(names, folder, flags.FLAGS.json),
    "map": lambda names, folder: write_map(names, folder, flags.FLAGS.output),
    "info": info,
}


if __name__ == "__main__":
    define_flags()
    console.run(main, tag_inputs.parse_flags)
