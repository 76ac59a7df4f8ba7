"""The dual-pipeline networks of Schindler, Lidy & Rauber 2016 on GTZAN, as in document 004 (Wyborn, Butt & Klas).

    python -m genre_jax.prepare --dataset=gtzan --split=stratified_750_250 --name=gtzan --source=GTZAN --sample_rate=22050
    python -m genre_jax.main --config=configs/schindler.py --config.data.name=gtzan             the deep network
    python -m genre_jax.main --config=configs/schindler.py:shallow,exp --config.data.name=gtzan
    python -m genre_jax.main --config=configs/schindler.py:demo      embedded data, minutes on two CPU cores

Presets: `shallow`; `copies` (stretched and shifted copies: 47,250 segments instead of 11,250); `as_coded` (ReLU, no biases,
dropout after the merge, as in document 004's code; combined with `shallow`, it must follow it); `cqt` (80 constant-Q bins,
learning rate 3e-5) and `exp` (learning rate × 0.9 every 3000 steps). `cqt` and `exp` are document 004's two proposals and can
be combined.

Source: document 004: segments of 80 frames at 22,050 Hz (0.93 s; the document's 0.97 s would be 84 frames), Adam at 5e-5 with
an L1 penalty of 1e-4 on all parameters (the code has the penalty, the text does not), batches of 15, 15 segments per track,
100 epochs, 15 windows per track in evaluation. Its accuracies in % for a split of 75 % / 25 % of GTZAN (by window / by the
sum over windows / by majority) are: deep 68.6 / 83.2 / 82.4, shallow 65.2 / 81.2 / 78.9, deep with `cqt,exp` 70.0 / 85.6 /
85.2.
Hardware, time, score: the full run was not measured here.
"""

from genre_jax.config import base, choose, with_argument


def get_config(argument: str = ""):
    config = base("schindler")
    config.data.update(sample_rate=22_050, samples=20_462, segments="fixed", segments_per_track=15, validation="")
    config.train.update(batch_size=15, duration="100 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=15, hop=45_788, weights="last")
    choose(config, "frontend", "schindler_log_mel")
    choose(config, "model", "schindler_deep")
    choose(config, "optimizer", "adam", l1=1e-4)
    choose(config, "schedule", "constant", learning_rate=5e-5)
    return with_argument(config, argument, shallow=shallow, copies=copies, as_coded=as_coded, cqt=cqt, exp=exp, demo=demo)


def shallow(config):
    """One layer per pipeline."""
    choose(config, "model", "schindler_shallow")


def copies(config):
    """48 copies per track: three more segments, each with every combination of four stretches and four shifts."""
    config.data.copies.update(segments=3, stretches=[0.2, 0.5, 1.2, 1.5], semitones=[-5, -2, 2, 5])


def as_coded(config):
    """The options of document 004's code that its text does not mention."""
    config.model.update(activation="relu", use_bias=False, dropout_at="merge")
    config.model.hidden_activation = config.model.name == "schindler_deep"


def cqt(config):
    """Constant-Q bins instead of mel bands."""
    choose(config, "frontend", "schindler_cqt")
    config.schedule.learning_rate = 3e-5


def exp(config):
    """Exponential decay counted in steps, as in the code. The text counts epochs, with which the rate would hardly decay."""
    choose(config, "schedule", "exponential", learning_rate=config.schedule.learning_rate, decay=0.9, every="3000 steps")


def demo(config):
    """Longer frames (the same 80 at 16 kHz: 1.28 s), no penalty, embedded data."""
    config.data.update(sample_rate=16_000, segments="random", validation="validation")
    config.train.update(batch_size=16, duration="30 epochs", evaluate_every="5 epochs", checkpoint_every="5 epochs")
    config.evaluate.update(batch_size=16, hop=0, weights="best")
    config.optimizer.l1 = 0.0
    choose(config, "schedule", "cosine", learning_rate=5e-4, warmup="1 epochs")
