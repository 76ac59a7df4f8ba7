"""Golden values of segment- and event-based scores: `python tests/golden/make_sed_eval.py`, with sed_eval 0.2.1 installed.

The script writes sed_eval.json in this folder: events of random recordings, and the scores of sed_eval for them.
`tests/test_segment_events.py` reads the file. If sed_eval is installed, the test also computes the values again. (sed_eval needs
setuptools < 81.)
"""

import json
from pathlib import Path

import numpy as np

LABELS = ["music", "noise", "speech"]


def recordings(seed: int) -> list[tuple[list, list]]:
    """Return (reference, found) of five recordings: the found events are the reference with shifts, errors, gaps and extras."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(5):
        ends = np.round(np.cumsum(rng.exponential(5, 12)), 2)
        reference = []
        for start, end in zip([0.0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            if rng.random() > 0.15:
                reference.append((start, end, str(rng.choice(LABELS))))
        found = []
        for start, end, label in reference:
            if rng.random() < 0.2:
                label = str(rng.choice(LABELS))
            if rng.random() > 0.1:
                low, high = np.round(np.array([start, end]) + rng.normal(0, 0.15, 2), 2)
                if high > max(low, 0):
                    found.append((max(0.0, float(low)), float(high), label))
            if rng.random() < 0.1:
                at = float(np.round(rng.uniform(0, ends[-1]), 2))
                found.append((at, at + 0.5, str(rng.choice(LABELS))))
        made.append((reference, found))
    return made


def scores(files: list[tuple[list, list]]) -> dict[str, dict]:
    """Return the scores of sed_eval for (reference, found) of each recording."""
    import sed_eval

    def events(rows):
        return [{"event_onset": a, "event_offset": b, "event_label": label} for a, b, label in rows]

    segment = sed_eval.sound_event.SegmentBasedMetrics(LABELS, time_resolution=1.0)
    both = sed_eval.sound_event.EventBasedMetrics(LABELS, t_collar=0.2, percentage_of_length=0.5)
    onset = sed_eval.sound_event.EventBasedMetrics(LABELS, t_collar=0.2, evaluate_offset=False)
    for reference, found in files:
        for metric in (segment, both, onset):
            metric.evaluate(events(reference), events(found))
    out: dict[str, dict] = {}
    for name, metric in {"segment": segment, "event": both, "onset": onset}.items():
        overall = metric.results_overall_metrics()
        whole = dict(overall["f_measure"])
        if name == "segment":
            counts = {"substitutions": "S", "deletions": "D", "insertions": "I"}
            whole |= overall["error_rate"] | {key: float(metric.overall[short]) for key, short in counts.items()}
        classes = {}
        for label, results in metric.results_class_wise_metrics().items():
            classes[label] = dict(results["f_measure"]) | (results["error_rate"] if name == "segment" else {})
        out[name] = {"overall": whole, "by_class": classes}
    return json.loads(json.dumps(out, default=float))


if __name__ == "__main__":
    files = recordings(0)
    values = {"labels": LABELS, "files": files, "scores": scores(files)}
    Path(__file__).with_name("sed_eval.json").write_text(json.dumps(values, indent=1) + "\n")
