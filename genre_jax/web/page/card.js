// The card of a song: player, tags of the whole song, tags over time, and the results as JSON and CSV.

import { clock } from "./audio.js";
import WaveSurfer from "./runtime/wavesurfer.esm.js";

const ROWS = { single: 5, multi: 10 }; // tags that are shown over time, as `genre-jax tag` does
const ROW = 32; // pixels of a row, as in style.css
const AXIS = 18; // pixels of the axis of time
const HEIGHT = 72; // pixels of the waveform; index.html has the hash of the style that follows from it
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]; // seconds between the marks of the axis

/** A probability as a percentage. */
export const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;

/** Says how many tags or classes a network gives, or `most` if it gives more. */
export function counted({ task, labels }, most = Infinity) {
  const count = Math.min(labels.length, most);
  const [one, several] = task === "single" ? ["class", "classes"] : ["tag", "tags"];
  return `${count} ${count === 1 ? one : several}`;
}

/** Returns a colour of the style sheet. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Returns a new element with this text and these children. */
function make(name, text = "", ...children) {
  const element = document.createElement(name);
  element.append(text, ...children);
  return element;
}

/** Returns a file name that may be broken into lines after its marks. */
export const breakable = (name) => name.split(/(?<=[_-])/).flatMap((part) => [part, make("wbr")]);

/** Returns a bar of `value` in [0, 1]. */
function meter(value) {
  const bar = make("i");
  bar.style.width = `${100 * value}%`;
  const frame = make("div", "", bar);
  frame.className = "meter";
  return frame;
}

/** Python's "%.6g". */
function sixDigits(value) {
  const [mantissa, exponent] = value.toExponential(5).split("e");
  if (value && Number(exponent) < -4) return `${Number(mantissa)}e-${exponent.slice(1).padStart(2, "0")}`;
  return String(Number(value.toPrecision(6)));
}

/** A row of CSV, as Python's module csv writes it; control characters become escapes, as `console.printable` writes them. */
export function csvRow(cells) {
  const hidden = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  const named = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };
  const escaped = (character) => {
    const code = character.charCodeAt(0);
    return named[character] ?? (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`);
  };
  const cell = (value) => {
    const text = String(value).replace(hidden, escaped);
    return /[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return cells.map(cell).join(",");
}

/** Offers a text as a file. */
export function download(name, type, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export class Card {
  /** `actions` has the functions cancel(card) and remove(card). */
  constructor(id, file, model, actions) {
    Object.assign(this, { id, file, model, state: "waiting", finished: 0, starts: [], chosen: [0, 0] });
    this.url = URL.createObjectURL(file);
    this.element = document.getElementById("song").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.element.querySelector(selector);
    this.part("h2").append(...breakable(file.name));
    this.part(".cancel").addEventListener("click", () => actions.cancel(this));
    this.part(".remove").addEventListener("click", () => actions.remove(this));
    this.part(".json").addEventListener("click", () => download(`${file.name}.json`, "application/json", `${this.json()}\n`));
    this.part(".csv").addEventListener("click", () =>
      download(`${file.name}.csv`, "text/csv", `${csvRow(this.columns())}\n${csvRow(this.row())}\n`),
    );
    this.part(".play").addEventListener("click", () => this.player.playPause());
    this.listenToHeat();
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.part(".heat"));
  }

  /** Shows what happens now, and which part of it is done; NaN: not known. */
  progress(text, done = NaN) {
    this.part(".stage").textContent = text;
    if (Number.isNaN(done)) this.part("progress").removeAttribute("value");
    else this.part("progress").value = done;
  }

  /** Ends the work with a state: "done", "cancelled" or "failed". The sentence says why. */
  end(state, sentence = "") {
    this.state = state;
    this.part(".work").hidden = true;
    this.part(".message").hidden = !sentence;
    this.part(".message").textContent = sentence;
    this.part(".actions").hidden = state !== "done";
    if (state === "done") this.showAll();
    if (this.finished) return;
    this.part(".result").hidden = true;
    this.element.classList.add("empty");
  }

  /** Shows the player of a decoded song. */
  showPlayer({ seconds, peaks }) {
    this.seconds = seconds;
    this.part(".facts").textContent = clock(seconds);
    this.part(".result").hidden = false;
    this.player = WaveSurfer.create({
      ...{ container: this.part(".wave"), url: this.url, peaks: [peaks], duration: seconds, height: HEIGHT },
      ...{ normalize: true, dragToSeek: true, cursorWidth: 2, barWidth: 2, barGap: 1, barRadius: 2, ...this.colours() },
    });
    this.player.on("ready", () => (this.part(".play").disabled = false));
    this.player.on("error", () => this.part(".play").setAttribute("title", "This browser cannot play the file."));
    this.player.on("timeupdate", () => this.showTime());
    for (const event of ["play", "pause"]) this.player.on(event, () => this.showPlaying());
    this.showTime();
  }

  colours() {
    return { waveColor: colour("--plain"), progressColor: colour("--accent"), cursorColor: colour("--ink") };
  }

  /** Takes the colours of the style sheet again, after a change between light and dark. */
  recolour() {
    this.player?.setOptions(this.colours());
    this.draw();
  }

  showPlaying() {
    const playing = this.player.isPlaying();
    this.element.classList.toggle("playing", playing);
    this.part(".play").setAttribute("aria-label", playing ? "Pause" : "Play");
    if (playing) this.element.dispatchEvent(new CustomEvent("playing", { bubbles: true, detail: this }));
  }

  showTime() {
    const time = this.player.getCurrentTime();
    this.part(".time").textContent = `${clock(time)} / ${clock(this.seconds)}`;
    const head = this.part(".playhead");
    head.hidden = !this.finished;
    head.style.left = `${(100 * time) / this.seconds}%`;
    head.style.height = `${ROW * this.shown().length}px`;
  }

  /** Sets the first sample of each window, and the length of the song at the rate of the network. */
  setWindows(starts, length) {
    const rate = this.model.sample_rate;
    this.starts = starts.map((start) => start / rate);
    this.seconds = length / rate;
    this.window = this.model.samples / rate;
    this.values = new Float32Array(starts.length * this.model.labels.length);
    this.sums = new Float64Array(this.model.labels.length);
    const windows = starts.length === 1 ? "1 window" : `${starts.length} windows`;
    this.part(".facts").textContent = `${clock(this.seconds)}, ${windows} of ${+this.window.toFixed(2)} s`;
    this.part(".note").hidden = length >= this.model.samples;
    this.part(".note").textContent = `Shorter than a window of ${+this.window.toFixed(2)} s: the rest is zeros.`;
    this.part("canvas").setAttribute("aria-valuemax", starts.length - 1);
  }

  /** Adds the probabilities of the next window. */
  add(window, probabilities) {
    this.values.set(probabilities, window * probabilities.length);
    probabilities.forEach((value, n) => (this.sums[n] += value));
    this.finished = window + 1;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.show());
  }

  /** Returns [number of the label, mean probability] of each label, the largest first. */
  overall() {
    const means = [...(this.sums ?? [])].map((sum, n) => [n, sum / Math.max(1, this.finished)]);
    return means.sort((a, b) => b[1] - a[1]);
  }

  /** The numbers of the labels that are shown over time. */
  shown() {
    return this.overall().slice(0, ROWS[this.model.task]).map(([label]) => label);
  }

  value(window, label) {
    return this.values[window * this.sums.length + label];
  }

  show() {
    const rows = this.overall().slice(0, ROWS[this.model.task]);
    const list = this.part(".tags");
    list.replaceChildren(
      ...rows.map(([label, mean]) => {
        const name = make("span", this.model.labels[label]);
        name.title = this.model.labels[label];
        return make("li", "", name, make("b", percent(mean)), meter(mean));
      }),
    );
    this.draw();
    this.showTime();
    this.readOut();
  }

  /** Draws the tags over time. The largest value that is shown has the strongest colour. */
  draw() {
    const width = this.part(".heat").clientWidth;
    if (!this.finished || !width) return;
    const [canvas, rows] = [this.part("canvas"), this.shown()];
    const height = rows.length * ROW + AXIS;
    const scale = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    this.largest = 1e-9;
    for (const label of rows) for (let n = 0; n < this.finished; n++) this.largest = Math.max(this.largest, this.value(n, label));
    rows.forEach((label, row) => {
      pen.fillStyle = colour("--page");
      pen.fillRect(0, row * ROW + 2, width, ROW - 4);
      pen.fillStyle = colour("--accent");
      for (let n = 0; n < this.finished; n++) {
        const [left, right] = [this.edge(n), this.edge(n + 1)].map((time) => Math.round((time / this.seconds) * width * scale) / scale);
        pen.globalAlpha = this.value(n, label) / this.largest;
        pen.fillRect(left, row * ROW + 2, right - left, ROW - 4);
      }
      pen.globalAlpha = 1;
    });
    this.drawAxis(pen, width, rows.length * ROW);
  }

  drawAxis(pen, width, top) {
    const step = STEPS.find((seconds) => (seconds / this.seconds) * width >= 60) ?? STEPS.at(-1);
    pen.fillStyle = colour("--soft");
    pen.font = '12px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif';
    for (let time = 0; time < this.seconds; time += step) {
      const at = (time / this.seconds) * width;
      if (at + 30 < width) pen.fillText(clock(time), at, top + 14);
    }
  }

  /** Where the column of a window begins, in seconds: windows may overlap. */
  edge(window) {
    return window < this.starts.length ? this.starts[window] : this.seconds;
  }

  listenToHeat() {
    const canvas = this.part("canvas");
    canvas.addEventListener("pointermove", (event) => this.choose(...this.under(event)));
    canvas.addEventListener("pointerleave", () => this.readOut(canvas.matches(":focus")));
    canvas.addEventListener("focus", () => this.readOut());
    canvas.addEventListener("blur", () => this.readOut(canvas.matches(":hover")));
    canvas.addEventListener("click", (event) => {
      this.choose(...this.under(event));
      this.seek((event.offsetX / canvas.clientWidth) * this.seconds);
    });
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [10, 0], PageDown: [-10, 0] };
    canvas.addEventListener("keydown", (event) => {
      const [window, row] = this.chosen;
      if (moves[event.key]) this.choose(window + moves[event.key][0], row + moves[event.key][1]);
      else if (event.key === "Home") this.choose(0, row);
      else if (event.key === "End") this.choose(this.finished - 1, row);
      else if (event.key === "Enter" || event.key === " ") this.seek(this.starts[window]);
      else return;
      event.preventDefault();
    });
  }

  /** Returns [window, row] under the pointer. */
  under({ offsetX, offsetY }) {
    const time = (offsetX / this.part("canvas").clientWidth) * this.seconds;
    const later = this.starts.findIndex((_, n) => this.edge(n + 1) > time);
    return [later < 0 ? this.starts.length - 1 : later, Math.floor(offsetY / ROW)];
  }

  choose(window, row) {
    const clip = (value, count) => Math.max(0, Math.min(count - 1, value));
    this.chosen = [clip(window, this.finished), clip(row, this.shown().length)];
    this.readOut();
  }

  /** Writes window and value of the chosen cell below the map, or how to choose a cell. */
  readOut(active = this.part("canvas").matches(":hover, :focus")) {
    const [window, row] = this.chosen;
    const label = this.shown()[row];
    const canvas = this.part("canvas");
    const end = Math.min(this.starts[window] + this.window, this.seconds);
    const text = `${clock(this.starts[window])} to ${clock(end)}: ${this.model.labels[label]} ${percent(this.value(window, label))}`;
    canvas.setAttribute("aria-valuenow", window);
    canvas.setAttribute("aria-valuetext", text);
    this.part(".scale").textContent = `The strongest colour stands for ${percent(this.largest)}.`;
    this.part(".scale").hidden = active;
    const hint = "Point at a cell to read its value; click to move the player there.";
    this.part(".chosen-cell").textContent = active ? text : hint;
    const cell = this.part(".cell");
    cell.hidden = !active;
    cell.style.left = `${(100 * this.edge(window)) / this.seconds}%`;
    cell.style.width = `${(100 * (this.edge(window + 1) - this.edge(window))) / this.seconds}%`;
    cell.style.top = `${row * ROW}px`;
    this.element.querySelectorAll(".tags li").forEach((item, n) => item.classList.toggle("chosen", active && n === row));
  }

  seek(seconds) {
    this.player.setTime(Math.min(seconds, this.seconds));
    this.showTime();
  }

  /** Shows all tags, for a song that is done. */
  showAll() {
    const rows = this.overall();
    this.part(".all").hidden = rows.length <= ROWS[this.model.task];
    this.part(".all summary").textContent = `All ${counted(this.model)}`;
    this.part(".bars").replaceChildren(
      ...rows.flatMap(([label, mean]) => {
        const bar = make("dd", "", meter(mean));
        return [make("dt", this.model.labels[label]), bar, make("dd", percent(mean))];
      }),
    );
  }

  /** Shows the nearest songs of an index. */
  showSimilar(songs) {
    this.part(".similar").hidden = !songs?.length;
    this.part(".similar ol").replaceChildren(
      ...(songs ?? []).map(({ name, similarity, seconds, tags }) => {
        const facts = make("span", `similarity ${similarity.toFixed(2)} · ${clock(seconds)} · ${tags.join(", ")}`);
        facts.className = "soft";
        return make("li", `${name} `, facts);
      }),
    );
  }

  columns() {
    return ["file", "seconds", ...this.model.labels];
  }

  row() {
    const means = [...this.sums].map((sum) => sixDigits(sum / this.finished));
    return [this.file.name, +this.seconds.toFixed(3), ...means];
  }

  /** The result as `genre-jax tag --json` prints it. An object of JavaScript would sort labels that are numbers. */
  json() {
    const object = (pairs) => `{${pairs.map(([key, value]) => `${JSON.stringify(key)}: ${value}`).join(", ")}}`;
    const labels = this.overall().map(([label, mean]) => [this.model.labels[label], mean]);
    const windows = this.starts.map((start, n) =>
      object([
        ["start", +start.toFixed(3)],
        ["end", +Math.min(start + this.window, this.seconds).toFixed(3)],
        ["labels", object(this.model.labels.map((label, column) => [label, this.value(n, column)]))],
      ]),
    );
    return object([
      ["file", JSON.stringify(this.file.name)],
      ["seconds", +this.seconds.toFixed(3)],
      ["labels", object(labels)],
      ["windows", `[${windows.join(", ")}]`],
    ]);
  }

  /** Frees what the card holds. */
  remove() {
    this.resized.disconnect();
    cancelAnimationFrame(this.frame);
    this.player?.destroy();
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}
