// The network, in a thread of its own: resamples a song, runs its windows, and finds its neighbours in the index.

import { Refusal, SILENT, measure, resample, sentence, toPcm, windowStarts } from "./audio.js";
import * as ort from "./runtime/ort.wasm.min.mjs";

const NEAREST = 10;

let model, session, songs;
const cancelled = new Set();

const breathe = () => new Promise((resolve) => setTimeout(resolve)); // lets the message "cancel" arrive

async function start() {
  model = await (await get("model.json")).json();
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
  const network = await (await get("model.onnx")).arrayBuffer();
  session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  if (model.similar === "table") songs = await readTable();
  postMessage({ type: "ready", model, threads: ort.env.wasm.numThreads }); // onnxruntime has chosen the number
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
  for (const [window, start] of starts.entries()) {
    if (cancelled.has(id)) return { cancelled: true };
    const output = await run(wave, start, maximum, peak);
    const [probabilities, embedding] = [output.probabilities.data, output.embedding.data];
    if (![...probabilities, ...embedding].every(Number.isFinite)) {
      throw new Refusal("The network computes NaN or infinity for this song: its weights cannot be used.");
    }
    total ??= new Float64Array(embedding.length);
    embedding.forEach((value, n) => (total[n] += value / starts.length));
    postMessage({ type: "result", id, window, probabilities });
    await breathe();
  }
  return { similar: await similar(total) };
}

/** Runs the window that begins at `start`. A batch of several windows takes longer per window, measured on two CPU cores. */
function run(wave, start, maximum, peak) {
  const pcm = new Int16Array(model.samples);
  toPcm(wave, start, peak, pcm);
  const shape = [1, model.samples];
  const audio =
    model.waveform === "int16"
      ? new ort.Tensor("int16", pcm, shape)
      : new ort.Tensor("float32", Float32Array.from(pcm, (sample) => sample / 32768), shape);
  if (!model.inputs.includes("maximum")) return session.run({ audio });
  return session.run({ audio, maximum: new ort.Tensor("float32", [maximum / Math.max(peak, 1)], [1]) });
}

function explain(error) {
  if (error instanceof Refusal) return error.message;
  const lacking = error instanceof RangeError || /memory/i.test(error.message);
  return lacking ? "The song needs more memory than the browser has free." : sentence(`The network failed: ${error.message}`);
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
