// The page: takes songs, gives them to the worker one after the other, and keeps their cards.

import { Refusal, clock, decode, sentence } from "./audio.js";
import { Card, breakable, counted, csvRow, download, percent } from "./card.js";

const COMPARED = 5; // tags of each song in the comparison
const LONGEST = 600; // seconds of a recording

const $ = (id) => document.getElementById(id);
const cards = [];
const waiting = []; // files that were chosen before the network was loaded
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let model, failure, current, count = 0; // failure: why there is no network, as a sentence

// ---- The worker ----------------------------------------------------------------------------------------------------------

const handlers = {
  ready({ model: loaded, threads }) {
    model = loaded;
    $("about").textContent =
      `Network: ${model.name}, with ${counted(model)}. It runs in this browser: no sound leaves this device.`;
    const which = model.labels.length > COMPARED ? "The strongest" : "All";
    $("compared").textContent = `${which} ${counted(model, COMPARED)} of each song, over the whole song.`;
    $("source").textContent = `Network: ${[model.name, model.source, model.licence].filter(Boolean).join(" · ")}`;
    status(`The network is ready, with ${threads === 1 ? "one thread" : `${threads} threads`}.`);
    document.documentElement.dataset.ready = "yes";
    add(waiting.splice(0));
  },
  failed({ message }) {
    failure = sentence(`The network cannot be loaded: ${message}`);
    status(`${failure} Load the page again. If the error stays, a file of the page is missing or damaged.`, true);
    add(waiting.splice(0));
  },
  progress({ done }) {
    current.progress(`Resampling: ${percent(done)}`, done);
  },
  windows({ starts, length }) {
    current.setWindows(starts, length);
    current.began = performance.now();
    current.progress("Tagging", 0);
  },
  result({ window, probabilities }) {
    current.add(window, probabilities);
    const done = current.finished / current.starts.length;
    const left = ((performance.now() - current.began) / 1000) * (1 / done - 1);
    current.progress(`Tagging: ${(100 * done).toFixed(0)} %, ${clock(left)} left`, done);
  },
  done({ cancelled, similar }) {
    if (cancelled) {
      const reached = current.starts.length ? ` after ${current.finished} of ${current.starts.length} windows` : "";
      finish("cancelled", `Cancelled${reached}.`);
    } else {
      current.showSimilar(similar);
      finish("done");
    }
  },
  error({ message }) {
    finish("failed", message);
  },
};

worker.onmessage = ({ data }) => {
  if (data.id === undefined || data.id === current?.id) handlers[data.type](data);
};
worker.onerror = () => handlers.failed({ message: "a script of the page is missing, or this browser is too old for it" });

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// ---- Songs ---------------------------------------------------------------------------------------------------------------

function add(files) {
  if (!model && !failure) {
    waiting.push(...files);
    if (files.length) status("The network is loading; the songs are tagged as soon as it is ready.");
    return;
  }
  for (const file of files) {
    const card = new Card(++count, file, model, { cancel, remove });
    cards.push(card);
    $("songs").append(card.element);
    if (failure) card.end("failed", failure);
  }
  refresh();
  next();
}

/** Begins with the next song that waits, unless one is being tagged. */
async function next() {
  current ??= cards.find((card) => card.state === "waiting");
  if (!current || current.state !== "waiting") return;
  const card = current;
  card.state = "running";
  card.progress("Decoding");
  try {
    const { mono, rate, loudest, ...rest } = await decode(card.file, model.sample_rate, card.url);
    if (card !== current) return; // it was removed
    if (card.state === "stopping") return finish("cancelled", "Cancelled.");
    card.showPlayer(rest);
    worker.postMessage({ type: "tag", id: card.id, mono, rate, loudest }, [mono.buffer]);
  } catch (error) {
    const reason = error instanceof Refusal ? error.message : sentence(`The file cannot be used: ${error.message}`);
    if (card === current) finish("failed", reason);
  }
}

function finish(state, sentence) {
  current.end(state, sentence);
  current = undefined;
  refresh();
  next();
}

function cancel(card) {
  if (card === current) {
    card.state = "stopping";
    card.progress("Stopping");
    worker.postMessage({ type: "cancel", id: card.id });
  } else {
    card.end("cancelled", "Cancelled.");
  }
}

function remove(card) {
  cards.splice(cards.indexOf(card), 1);
  if (card === current) {
    worker.postMessage({ type: "cancel", id: card.id });
    current = undefined;
  }
  card.remove();
  refresh();
  next();
}

/** Shows what belongs to all songs together. */
function refresh() {
  const done = cards.filter((card) => card.state === "done");
  $("toolbar").hidden = !cards.length;
  for (const id of ["json", "csv", "print"]) $(id).disabled = !done.length;
  compare(done);
}

function compare(done) {
  $("comparison").hidden = done.length < 2;
  if (done.length < 2) return;
  const means = done.map((card) => new Map(card.overall()));
  const labels = [...new Set(done.flatMap((card) => card.overall().slice(0, COMPARED).map(([label]) => label)))];
  const total = (label) => means.reduce((sum, mean) => sum + mean.get(label), 0);
  labels.sort((a, b) => total(b) - total(a));
  const cell = (name, text, scope) => {
    const element = document.createElement(name);
    element.append(...breakable(text));
    if (scope) Object.assign(element, { scope, title: text });
    return element;
  };
  const row = (...cells) => {
    const element = document.createElement("tr");
    element.append(...cells);
    return element;
  };
  const head = row(cell("th", ""), ...done.map((card) => cell("th", card.file.name, "col")));
  const body = labels.map((label) => {
    const values = means.map((mean) => {
      const value = cell("td", percent(mean.get(label)));
      value.style.setProperty("--value", mean.get(label));
      return value;
    });
    return row(cell("th", model.labels[label], "row"), ...values);
  });
  $("comparison").querySelector("thead").replaceChildren(head);
  $("comparison").querySelector("tbody").replaceChildren(...body);
}

// ---- The microphone ------------------------------------------------------------------------------------------------------

let recording;

async function record() {
  if (recording) return stop();
  if (!navigator.mediaDevices) return status("The microphone needs a page from https or from this machine.", true);
  try {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(node);
    recording = { stream, context, blocks: [], name: `recording ${new Date().toTimeString().slice(0, 8)}.wav` };
    node.port.onmessage = ({ data }) => {
      if (!recording) return;
      recording.blocks.push(data);
      const seconds = recording.blocks.length / 10;
      $("record").textContent = `Stop the recording (${clock(seconds)})`;
      if (seconds >= LONGEST) stop();
    };
    $("record").classList.add("on");
    $("record").textContent = "Stop the recording (0:00)";
  } catch (error) {
    status(sentence(`The microphone cannot be used: ${error.message}`), true);
  }
}

function stop() {
  const { stream, context, blocks, name } = recording;
  recording = undefined;
  for (const track of stream.getTracks()) track.stop();
  const file = new File([wave(blocks, context.sampleRate)], name, { type: "audio/wav" });
  context.close();
  $("record").classList.remove("on");
  $("record").textContent = "Record from the microphone";
  if (blocks.length) add([file]);
}

/** Returns blocks of samples as a WAV file with one channel of 16 bits. */
function wave(blocks, rate) {
  const bytes = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const data = new DataView(new ArrayBuffer(44 + bytes));
  const text = (at, value) => [...value].forEach((letter, n) => data.setUint8(at + n, letter.charCodeAt(0)));
  const long = (at, value) => data.setUint32(at, value, true);
  const short = (at, value) => data.setInt16(at, value, true);
  text(0, "RIFF"), long(4, 36 + bytes), text(8, "WAVEfmt "), long(16, 16), short(20, 1), short(22, 1);
  long(24, rate), long(28, 2 * rate), short(32, 2), short(34, 16), text(36, "data"), long(40, bytes);
  let at = 44;
  for (const block of blocks) {
    for (const sample of block) {
      short(at, Math.max(-32768, Math.min(32767, Math.round(sample * 32768))));
      at += 2;
    }
  }
  return data.buffer;
}

// ---- Controls ------------------------------------------------------------------------------------------------------------

const done = () => cards.filter((card) => card.state === "done");

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  add([...$("files").files]);
  $("files").value = ""; // so that the same file can be chosen again
});
$("record").addEventListener("click", record);
$("print").addEventListener("click", () => print());
$("clear").addEventListener("click", () => [...cards].forEach(remove));
$("json").addEventListener("click", () =>
  download("tags.jsonl", "application/json", done().map((card) => `${card.json()}\n`).join("")),
);
$("csv").addEventListener("click", () => {
  const rows = [done()[0].columns(), ...done().map((card) => card.row())];
  download("tags.csv", "text/csv", rows.map((cells) => `${csvRow(cells)}\n`).join(""));
});
$("songs").addEventListener("playing", ({ detail }) => {
  for (const card of cards) if (card !== detail) card.player?.pause();
});
for (const event of ["dragover", "dragleave", "drop"]) {
  addEventListener(event, (dragged) => {
    dragged.preventDefault();
    $("drop").classList.toggle("over", event === "dragover");
    if (event === "drop") add([...dragged.dataTransfer.files]);
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cards.forEach((card) => card.recolour()));
for (const event of ["beforeprint", "afterprint"]) {
  addEventListener(event, () => {
    document.documentElement.classList.toggle("printing", event === "beforeprint"); // light colours, also in a dark system
    cards.forEach((card) => card.recolour());
  });
}
