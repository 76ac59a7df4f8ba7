"""Document 004 (Wyborn, Butt & Klas): the dual-pipeline networks of Schindler, Lidy & Rauber 2016 on GTZAN.

    python -m genre_jax.prepare --dataset=gtzan --split=stratified_750_250 --source=GTZAN --sample_rate=22050
    python -m genre_jax.main --config=configs/schindler.py:code                       deep, 100 epochs: 68.6 / 83.2 / 82.4 %
    python -m genre_jax.main --config=configs/schindler.py:code,cqt,exp               the best row: 70.0 / 85.6 / 85.2 %
    python -m genre_jax.main --config=configs/schindler.py:code,shallow,epochs_200
    python -m genre_jax.main --config=configs/schindler.py                            the paper of 2016, as far as it is known
    python -m genre_jax.main --config=configs/schindler.py:demo      embedded data, minutes on two CPU cores

Presets, which can be combined: `code` (document 004's code, which made its tables), `text` (its text); `shallow` (instead of
the deep network); `cqt` (80 constant-Q bins, learning rate 3e-5), `bins_84` (84 of them, seven octaves); `exp` (learning rate
× 0.9 every 3000 steps); `epochs_200` (instead of 100); `copies` (stretched and shifted copies of the paper: 47,250 segments
instead of 11,250).

Source: document 004: segments of 80 frames at 22,050 Hz (0.93 s; the document's 0.97 s would be 84 frames), Adam at 5e-5,
batches of 15, 15 drawn segments a track in training and evaluation, 100 or 200 epochs, 75 % / 25 % of GTZAN; its figures show
the accuracy on the test split during the training, and no checkpoint is chosen. The scores above are by segment / by the sum
over segments / by majority. `code` and `text` differ: the code has an L1 penalty of 1e-4 on all parameters, no biases in the
convolutions, dropout after the merge, no activation in the shallow network's hidden layer, and counts the decay of the
learning rate in steps. The text mentions no penalty, and counts the decay in epochs, with which the rate hardly changes. Both
replace the paper's LeakyReLU by ReLU.
Hardware, time, score: docs/results.md has runs at a reduced scale; the full runs were not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("schindler")
    config.data.update(
        name="gtzan_stratified_750_250", sample_rate=22_050, samples=20_462, segments="fixed", segments_per_track=15
    )
    config.data.validation = "test"
    config.train.update(batch_size=15, duration="100 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=15, windows="fixed", weights="last")
    choose(config, "frontend", "schindler_log_mel")
    choose(config, "model", "schindler_deep")
    choose(config, "optimizer", "adam", l1=1e-4)
    choose(config, "schedule", "constant", learning_rate=5e-5)
    return with_argument(
        config, argument, shallow=shallow, cqt=cqt, bins_84=bins_84, exp=exp, epochs_200=epochs_200, copies=copies, code=code,
        text=text, demo=demo,
    )  # fmt: skip


def shallow(config):
    """One layer per pipeline."""
    choose(config, "model", "schindler_shallow")


def cqt(config):
    """Constant-Q bins instead of mel bands."""
    choose(config, "frontend", "schindler_cqt")
    config.schedule.learning_rate = 3e-5


def bins_84(config):
    """Constant-Q bins of seven octaves; the document takes 80 bins for seven octaves."""
    cqt(config)
    config.frontend.n_bins = 84


def exp(config):
    """Exponential decay, counted in steps."""
    choose(config, "schedule", "exponential", learning_rate=config.schedule.learning_rate, decay=0.9, every="3000 steps")


def epochs_200(config):
    """Twice the epochs."""
    config.train.duration = "200 epochs"


def copies(config):
    """48 copies per track: three more segments, each with every combination of four stretches and four shifts."""
    config.data.copies.update(segments=3, stretches=[0.2, 0.5, 1.2, 1.5], semitones=[-5, -2, 2, 5])


def code(config):
    """The options of document 004's code."""
    config.model.update(activation="relu", use_bias=False, dropout_at="merge")
    config.model.hidden_activation = config.model.name == "schindler_deep"


def text(config):
    """The options of document 004's text."""
    config.model.activation = "relu"
    config.optimizer.l1 = 0.0
    if config.schedule.name == "exponential":
        config.schedule.every = "3000 epochs"


def demo(config):
    """Longer frames (the same 80 at 16 kHz: 1.28 s), no penalty, embedded data."""
    config.data.update(name="synthetic", sample_rate=16_000, segments="random", validation="validation")
    config.train.update(batch_size=16, duration="30 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16, windows="consecutive", weights="best")
    config.optimizer.l1 = 0.0
    choose(config, "schedule", "cosine", learning_rate=5e-4, warmup="1 epochs")
