// The network, in a thread of its own: resamples a song, runs its windows, and finds its neighbours in the index.

import { Refusal, SILENT, measure, resample, toPcm, windowStarts } from "./audio.js";
import * as ort from "./runtime/ort.wasm.min.mjs";

const BATCH = 4; // windows in one call of the network
const THREADS = 4;
const NEAREST = 10;

let model, session, songs;
const cancelled = new Set();

const breathe = () => new Promise((resolve) => setTimeout(resolve)); // lets the message "cancel" arrive

async function start() {
  model = await (await get("model.json")).json();
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
  const network = await (await get("model.onnx")).arrayBuffer();
  session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  if (model.similar === "table") songs = await readTable();
  postMessage({ type: "ready", model, threads: ort.env.wasm.numThreads });
}

async function get(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status})`);
  return answer;
}

async function readTable() {
  const { songs, dimensions } = await (await get("index.json")).json();
  const bytes = await (await get("index.bin")).arrayBuffer();
  return { songs, mean: new Float32Array(bytes, 0, dimensions), units: new Uint16Array(bytes, 4 * dimensions) };
}

/** The values of all 65,536 half-precision numbers: not every browser has Float16Array. */
const HALVES = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
});

/** Returns the songs of the exported index nearest to an embedding, as `genre_jax.recommend.neighbours` does. */
function nearest(embedding) {
  const query = embedding.map((value, n) => value - songs.mean[n]);
  const length = Math.hypot(...query) || 1;
  const scores = songs.songs.map((_, row) => {
    let sum = 0;
    for (let n = 0; n < query.length; n++) sum += query[n] * HALVES[songs.units[row * query.length + n]];
    return sum / length;
  });
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, NEAREST);
  return order.map((row) => ({ ...songs.songs[row], similarity: scores[row] }));
}

async function similar(embedding) {
  if (songs) return nearest(embedding);
  if (model.similar !== "server") return undefined;
  const body = JSON.stringify({ embedding: [...embedding], k: NEAREST });
  const answer = await fetch(new URL("similar", import.meta.url), { method: "POST", body, headers: { "Content-Type": "application/json" } });
  return answer.ok ? (await answer.json()).similar : undefined;
}

/** Tags a song, and tells the page of each step. */
async function tag(id, mono, rate, loudest) {
  const progress = resample(mono, rate, model.sample_rate);
  let step = progress.next();
  for (; !step.done; step = progress.next()) {
    postMessage({ type: "progress", id, stage: "resampling", done: step.value });
    await breathe();
    if (cancelled.has(id)) return { cancelled: true };
  }
  const wave = step.value;
  const { maximum, peak } = measure(wave);
  if (Math.round(peak * 32768) / 32768 < SILENT) {
    throw new Refusal(
      loudest > 10 * SILENT
        ? "The mono mix is silent, but the channels are not: they cancel each other."
        : `The mono mix is silent: no sample exceeds ${SILENT} of full scale.`,
    );
  }
  const starts = windowStarts(wave.length, model.samples, model.hop);
  postMessage({ type: "windows", id, starts, length: wave.length });
  let total;
  for (let first = 0; first < starts.length; first += BATCH) {
    if (cancelled.has(id)) return { cancelled: true };
    const part = starts.slice(first, first + BATCH);
    const output = await run(wave, part, maximum, peak);
    const embeddings = output.embedding.data;
    if (![...output.probabilities.data, ...embeddings].every(Number.isFinite)) {
      throw new Refusal("The network computes NaN or infinity for this song: its weights cannot be used.");
    }
    total ??= new Float64Array(embeddings.length / part.length);
    for (let n = 0; n < embeddings.length; n++) total[n % total.length] += embeddings[n] / starts.length;
    postMessage({ type: "result", id, first, count: part.length, probabilities: output.probabilities.data });
    await breathe();
  }
  return { similar: await similar(total) };
}

/** Runs the windows that begin at `starts` as one batch. */
function run(wave, starts, maximum, peak) {
  const pcm = new Int16Array(starts.length * model.samples);
  starts.forEach((start, n) => toPcm(wave, start, peak, pcm.subarray(n * model.samples, (n + 1) * model.samples)));
  const shape = [starts.length, model.samples];
  const audio =
    model.waveform === "int16"
      ? new ort.Tensor("int16", pcm, shape)
      : new ort.Tensor("float32", Float32Array.from(pcm, (sample) => sample / 32768), shape);
  const inputs = { audio };
  if (model.inputs.includes("maximum")) {
    const largest = new Float32Array(starts.length).fill(maximum / Math.max(peak, 1));
    inputs.maximum = new ort.Tensor("float32", largest, [starts.length]);
  }
  return session.run(inputs);
}

function explain(error) {
  if (error instanceof Refusal) return error.message;
  const lacking = error instanceof RangeError || /memory/i.test(error.message);
  return lacking ? "The song needs more memory than the browser has free." : `The network failed: ${error.message}.`;
}

onmessage = async ({ data }) => {
  if (data.type === "cancel") {
    cancelled.add(data.id);
    return;
  }
  try {
    postMessage({ type: "done", id: data.id, ...(await tag(data.id, data.mono, data.rate, data.loudest)) });
  } catch (error) {
    postMessage({ type: "error", id: data.id, message: explain(error) });
  }
};

start().catch((error) => postMessage({ type: "failed", message: error.message }));
