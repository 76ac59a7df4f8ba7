// From a file to windows of 16-bit samples: format, decoding, mono mix, resampling. It draws nothing; page and worker share it.

export const SILENT = 1e-4; // peak of a silent mix, as in genre_jax/prepare/silence.py
const FALLBACK = 48000; // Hz: the rate at which a format is decoded whose header is not read here
const HEADER = 1 << 16; // bytes that are read from the beginning of a file
const EXPANSION = 25; // samples take so many times the bytes of a file of unknown length: this is mp3 at 112 kbit/s
const PEAKS = 2000; // columns of the drawn waveform
const ATTENUATION = 120; // dB, of the stop band of the resampling filter
const PASSED = 0.913; // part of the band, up to the lower Nyquist frequency, that passes unchanged
const LARGEST = 1 << 24; // coefficients of a filter

/** An error that a person can correct. Its message is a sentence. */
export class Refusal extends Error {}

/** Bytes of decoded audio that the page holds at most: 1 GB, less on phones and where the browser says that memory is small. */
export function memoryLimit() {
  const phone = globalThis.matchMedia?.("(pointer: coarse)").matches;
  return Math.min(phone ? 4e8 : 1e9, (globalThis.navigator?.deviceMemory ?? 8) * 1.25e8);
}

/** Seconds as m:ss or h:mm:ss, like `logbook.clock`. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

// ---- Formats -------------------------------------------------------------------------------------------------------------

/** Returns {rate, channels, seconds} of a file as far as its header tells; a value that it does not tell is undefined. */
export async function inspect(file) {
  const part = async (start, length) => new Uint8Array(await file.slice(start, start + length).arrayBuffer());
  const head = await part(0, HEADER);
  const text = (start, length) => String.fromCharCode(...head.subarray(start, start + length));
  if (["RIFF", "RF64"].includes(text(0, 4)) && text(8, 4) === "WAVE") return wav(head, file.size);
  if (text(0, 4) === "fLaC" && head.length > 26) return flac(head);
  if (text(0, 4) === "OggS") return ogg(head);
  if (text(4, 4) === "ftyp") return mp4(head, await part(Math.max(0, file.size - (1 << 20)), 1 << 20));
  if (text(0, 3) === "ID3" && head.length > 10) {
    const size = head.subarray(6, 10).reduce((sum, byte) => sum * 128 + (byte & 127), 0);
    return mpeg(await part(10 + size, HEADER));
  }
  return mpeg(head);
}

function view(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Returns where the characters of `text` begin in the bytes, or -1. */
function find(bytes, text) {
  const codes = [...text].map((character) => character.charCodeAt(0));
  for (let at = bytes.indexOf(codes[0]); at >= 0; at = bytes.indexOf(codes[0], at + 1)) {
    if (codes.every((code, n) => bytes[at + n] === code)) return at;
  }
  return -1;
}

function wav(head, size) {
  const data = view(head);
  const found = {};
  for (let at = 12; at + 24 <= head.length; ) {
    const [name, length] = [String.fromCharCode(...head.subarray(at, at + 4)), data.getUint32(at + 4, true)];
    if (name === "fmt ") {
      [found.channels, found.rate] = [data.getUint16(at + 10, true), data.getUint32(at + 12, true)];
      found.bytes = data.getUint32(at + 16, true);
    } else if (name === "data") {
      if (found.bytes) found.seconds = Math.min(length, size - at - 8) / found.bytes;
      break;
    }
    at += 8 + length + (length % 2);
  }
  return found;
}

function flac(head) {
  const rate = (head[18] << 12) | (head[19] << 4) | (head[20] >> 4);
  const samples = (head[21] & 15) * 2 ** 32 + view(head).getUint32(22);
  return { rate, channels: ((head[20] >> 1) & 7) + 1, seconds: samples ? samples / rate : undefined };
}

function ogg(head) {
  const vorbis = find(head, "\x01vorbis");
  if (vorbis >= 0 && vorbis + 16 <= head.length) {
    return { channels: head[vorbis + 11], rate: view(head).getUint32(vorbis + 12, true) };
  }
  const opus = find(head, "OpusHead");
  return opus >= 0 ? { channels: head[opus + 9], rate: 48000 } : {};
}

function mp4(...parts) {
  for (const part of parts) {
    const at = find(part, "mp4a");
    if (at >= 0 && at + 32 <= part.length) {
      const [channels, rate] = [view(part).getUint16(at + 20), view(part).getUint16(at + 28)];
      if (rate) return { channels, rate };
    }
  }
  return {};
}

/** MPEG audio (mp3) or AAC in ADTS, from the header of its first frame, which only zeros may precede. */
function mpeg(bytes) {
  const at = bytes.findIndex((byte) => byte);
  const [sync, kind, rates, channels] = bytes.subarray(at, at + 4);
  if (sync !== 255 || kind < 0xe0) return {};
  const [version, layer] = [(kind >> 3) & 3, (kind >> 1) & 3];
  if (!layer) {
    const rate = [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350][(rates >> 2) & 15];
    return { rate, channels: ((rates & 1) << 2) | (channels >> 6) };
  }
  const rate = [44100, 48000, 32000][(rates >> 2) & 3] / { 3: 1, 2: 2, 0: 4 }[version];
  return rate ? { rate, channels: channels >> 6 === 3 ? 1 : 2 } : {};
}

// ---- Decoding, in the page: workers have no decoder ----------------------------------------------------------------------

/**
 * Decodes a file. Returns {mono, rate, seconds, loudest, peaks}: the mean of the channels as Float32Array at `rate` Hz, the
 * largest magnitude of a channel, and the drawn waveform. Throws `Refusal`.
 */
export async function decode(file, sampleRate, url) {
  if (!file.size) throw new Refusal("The file has zero bytes.");
  const found = await inspect(file).catch(() => {
    throw new Refusal("The file cannot be read: drop files, and not a folder.");
  });
  const seconds = found.seconds ?? (await duration(url));
  const channels = found.channels || 2;
  const rate = usable(found.rate, sampleRate) ? found.rate : FALLBACK;
  const limit = memoryLimit();
  const bytes = Number.isFinite(seconds) ? seconds * rate * channels * 4 : file.size * EXPANSION;
  if (bytes > limit) {
    const long = Number.isFinite(seconds) ? `${clock(seconds)} long` : `${(file.size / 1e6).toFixed(0)} MB large`;
    const most = `${(limit / 1e9).toFixed(1)} GB, which is ${clock(limit / rate / channels / 4)} of this format`;
    throw new Refusal(`The file is ${long}, and this page can decode at most ${most}: use genre-jax tag, which has no limit.`);
  }
  return mix(await decoded(await file.arrayBuffer(), rate));
}

/** Whether the browser can decode at this rate, and the filter from it has a usable size. */
function usable(rate, sampleRate) {
  if (!rate) return false;
  const { up, taps } = size(rate, sampleRate);
  return up * taps <= LARGEST;
}

async function decoded(bytes, rate) {
  let context;
  try {
    context = new OfflineAudioContext(1, 1, rate);
  } catch {
    context = new OfflineAudioContext(1, 1, FALLBACK); // the rate of the file is outside the range of the browser
  }
  try {
    return await context.decodeAudioData(bytes);
  } catch (error) {
    if (error instanceof RangeError) throw new Refusal("Decoding the file needs more memory than the browser has free.");
    throw new Refusal("The file cannot be decoded: it is damaged, has no sound, or has a format that this browser does not know.");
  }
}

/** Returns the length of a file in seconds by a media element, which reads little of it; NaN if the element cannot tell. */
function duration(url) {
  return new Promise((resolve) => {
    const element = new Audio();
    const done = (value) => {
      clearTimeout(timer);
      element.removeAttribute("src");
      resolve(value);
    };
    const timer = setTimeout(done, 5000, NaN);
    element.preload = "metadata";
    element.addEventListener("loadedmetadata", () => done(element.duration));
    element.addEventListener("error", () => done(NaN));
    element.src = url;
  });
}

async function mix(buffer) {
  const { length, numberOfChannels: count, sampleRate: rate } = buffer;
  if (!length) throw new Refusal("The file holds no samples.");
  const channels = Array.from({ length: count }, (_, n) => buffer.getChannelData(n));
  const mono = new Float32Array(length);
  const share = Math.fround(1 / count);
  let loudest = 0;
  for (let start = 0; start < length; start += 1 << 20) {
    const end = Math.min(length, start + (1 << 20));
    for (const channel of channels) {
      for (let n = start; n < end; n++) {
        mono[n] += channel[n] * share;
        loudest = Math.max(loudest, Math.abs(channel[n]));
      }
    }
    await new Promise((resolve) => setTimeout(resolve)); // let the page answer
  }
  if (!Number.isFinite(loudest)) throw new Refusal("The file holds samples that are not finite (NaN or infinity).");
  return { mono, rate, seconds: length / rate, loudest, peaks: outline(mono) };
}

/** Returns the sample of the largest magnitude in each of `PEAKS` equal parts. */
function outline(wave) {
  const count = Math.min(PEAKS, wave.length);
  return Float32Array.from({ length: count }, (_, part) => {
    let most = 0;
    const end = Math.floor(((part + 1) * wave.length) / count);
    for (let n = Math.floor((part * wave.length) / count); n < end; n++) if (Math.abs(wave[n]) > Math.abs(most)) most = wave[n];
    return most;
  });
}

// ---- Resampling ----------------------------------------------------------------------------------------------------------

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

/** Returns the size of the filter from one rate to another: `up` phases of `taps` coefficients, `down` steps per sample. */
function size(from, to) {
  const common = divisor(from, to);
  const low = Math.min(1, to / from); // the lower Nyquist frequency in units of that of the source
  const half = 2 * Math.ceil((ATTENUATION - 8) / (2.285 * Math.PI * low * (1 - PASSED)) / 4);
  return { up: to / common, down: from / common, taps: 2 * half, half, cutoff: (low * (1 + PASSED)) / 2 };
}

function bessel(x) {
  let [sum, term] = [1, 1];
  for (let n = 1; term > 1e-17 * sum; n++) sum += term *= (x / (2 * n)) ** 2;
  return sum;
}

/**
 * Returns a polyphase low-pass filter: a sinc under a Kaiser window, stop band `ATTENUATION` dB from the lower Nyquist
 * frequency on, pass band up to `PASSED` of it. Each phase sums to 1.
 */
export function design(from, to) {
  const filter = size(from, to);
  const { up, taps, half, cutoff } = filter;
  const beta = 0.1102 * (ATTENUATION - 8.7);
  const top = bessel(beta);
  const table = new Float32Array(up * taps);
  const phase = new Float64Array(taps);
  for (let p = 0; p < up; p++) {
    let sum = 0;
    for (let k = 0; k < taps; k++) {
      const x = k - half + 1 - p / up;
      const sinc = x ? Math.sin(Math.PI * cutoff * x) / (Math.PI * x) : cutoff;
      phase[k] = (sinc * bessel(beta * Math.sqrt(Math.max(0, 1 - (x / half) ** 2)))) / top;
      sum += phase[k];
    }
    for (let k = 0; k < taps; k++) table[p * taps + k] = phase[k] / sum;
  }
  return { ...filter, table };
}

/**
 * Resamples a Float32Array from `from` to `to` Hz, whole numbers. Yields the part that is done, in [0, 1], and returns
 * round(length · to / from) samples, as soxr does. The samples before and after the signal count as zeros.
 */
export function* resample(wave, from, to) {
  if (from === to) return wave;
  const { up, down, taps, half, table } = design(from, to);
  const output = new Float32Array(Math.round((wave.length * to) / from));
  for (let n = 0; n < output.length; n++) {
    const position = n * down;
    const first = Math.floor(position / up) - half + 1; // of the samples under the filter
    const row = (position % up) * taps;
    const [begin, end] = [Math.max(0, -first), Math.min(taps, wave.length - first)];
    let a = 0, b = 0, c = 0, d = 0, k = begin; // sums that do not wait for each other
    for (; k + 3 < end; k += 4) {
      a += wave[first + k] * table[row + k];
      b += wave[first + k + 1] * table[row + k + 1];
      c += wave[first + k + 2] * table[row + k + 2];
      d += wave[first + k + 3] * table[row + k + 3];
    }
    for (; k < end; k++) a += wave[first + k] * table[row + k];
    output[n] = a + b + c + d;
    if (n % 65536 === 65535) yield n / output.length;
  }
  return output;
}

// ---- Windows, as in genre_jax/tagger.py ----------------------------------------------------------------------------------

/** Returns a text that ends with one full stop: messages of browser and runtime end with one or with none. */
export const sentence = (text) => `${text.replace(/[.\s]+$/, "")}.`;

/** Returns {maximum, peak}: the largest sample, and the largest magnitude. */
export function measure(wave) {
  let [maximum, minimum] = [0, 0];
  for (const sample of wave) {
    if (sample > maximum) maximum = sample;
    else if (sample < minimum) minimum = sample;
  }
  return { maximum, peak: Math.max(maximum, -minimum) };
}

/** Returns the first sample of each window. The last window ends at the end of the signal. */
export function windowStarts(length, samples, hop) {
  const starts = [];
  for (let start = 0; start + samples < length; start += hop) starts.push(start);
  return [...starts, Math.max(0, length - samples)];
}

const ROUND = 1.5 * 2 ** 52; // adding and subtracting it rounds to the nearest whole number, and halves to even ones

/** Writes the window at `start` into `target`, an Int16Array of zeros: `audio.to_pcm` of Python, in float32. */
export function toPcm(wave, start, peak, target) {
  const divider = peak > 1 ? peak : 1;
  const count = Math.min(target.length, wave.length - start);
  for (let n = 0; n < count; n++) {
    const rounded = Math.fround(wave[start + n] / divider) * 32768 + ROUND - ROUND;
    target[n] = Math.max(-32768, Math.min(32767, rounded));
  }
}
