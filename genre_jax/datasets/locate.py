"""Where the data set that a config names lies; embedded ones are made on first use."""

from pathlib import Path

from ml_collections import ConfigDict

from genre_jax import console, datasets, records
from genre_jax.console import UserError


def check_name(name: str, data_dir: str) -> None:
    """Raise `UserError` unless `name` is prepared in `data_dir` or is a data set that `prepare` can make."""
    legal = {*datasets.DATASETS, *records.prepared(data_dir)} - {"folder"}  # which is a way to make one
    if name not in legal:
        raise console.unknown("data set", name, legal)


def locate(config: ConfigDict) -> Path:
    """The folder of the config's data set. Raises `UserError` with the `prepare` command where it is missing."""
    data = config.data
    folder = records.directory(data.data_dir, data.name, data.sample_rate)
    if (folder / "passport.json").exists():
        left_out = sum(map(len, records.read_exclude(folder).values()))
        if left_out:
            console.say(f"exclude.csv leaves out {left_out} clips of data set {data.name!r}")
        return folder
    if data.name in datasets.EMBEDDED:
        from genre_jax import prepare  # decoding libraries, not needed where the data lies ready

        return prepare.prepare_apart(data.name, data.data_dir, data.sample_rate)
    rates = records.prepared(data.data_dir).get(data.name)
    command = (
        f"python -m genre_jax.prepare --dataset={data.name if data.name in datasets.DATASETS else 'folder'} "
        f"--source=DIR --name={data.name} --data_dir={data.data_dir} --sample_rate={data.sample_rate}"
    )
    if rates:
        have = ", ".join(str(rate) for rate in rates)
        raise UserError(
            f"data set {data.name!r} in {data.data_dir!r} has {have} Hz and the config asks for {data.sample_rate} Hz: "
            f"set --config.data.sample_rate={rates[0]}, or make it with `{command}`"
        )
    raise UserError(
        f"data set {data.name!r} at {data.sample_rate} Hz is not in {data.data_dir!r}: make it with `{command}`, "
        "or try --config=configs/bytenet.py:demo, which needs no data"
    )
