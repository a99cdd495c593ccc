/* What was measured, as the page carries it, and small helpers that everything shares. */

const DATA = JSON.parse(document.getElementById("data").textContent);

const COLOURS = {
  views: ["#0072b2", "#d55e00", "#6a3d9a", "#997700", "#c2185b", "#00798c", "#5d4037", "#4d6b1f"],
  kinds: {
    embed: "#1f2933", self_attn: "#009e73", cross_attn: "#aa4499", global_attn: "#aa4499",
    mlp: "#7d8790", global_mlp: "#b08968", output: "#1f2933",
  },
};

const VIEWS = DATA.views.map((_, view) => view);
const OTHERS = VIEWS.slice(1);
const MANY = 4; // views from which on charts show their median

/** The colour of a view: of a palette, or evenly spaced hues where that is too short. */
function colourOf(view) {
  if (VIEWS.length <= COLOURS.views.length) return COLOURS.views[view];
  const [hue, light] = [(360 * view) / VIEWS.length + 205, view % 2 ? 0.34 : 0.44];
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    const value = light - 0.7 * light * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}

function medianOf(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? (known[(known.length - 1) >> 1] + known[known.length >> 1]) / 2 : null;
}

/** What is said of each of the views after the first; the view is named if there are several. */
const ofView = (view) => (OTHERS.length > 1 ? ` · view ${view + 1}` : "");

/** Base64 to bytes. */
function bytes(base64) {
  const text = atob(base64);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < out.length; i++) out[i] = text.charCodeAt(i);
  return out;
}

/** Base64 to little-endian 16-bit words, which also hold half floats. */
function words(base64) {
  return new Uint16Array(bytes(base64).buffer);
}

/** A new element with properties, data attributes and children. */
function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node && key !== "role") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** A new SVG element with attributes and children. */
function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** The element of a part of the page by its role there. */
function part(root, role) {
  return root.querySelector(`[data-role="${role}"]`);
}

function percent(share, digits = 0) {
  return share === null ? "–" : `${(100 * share).toFixed(digits)} %`;
}

/** A number with its sign, and a true minus. */
function signed(value, digits) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Red, green and blue from 0 to 1 of a "#rrggbb". */
function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
}

/** A colour between the stops of a ramp, for a level from 0 to 1. */
function ramp(stops, level) {
  const at = clamp(level, 0, 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, i) => value + (stops[low + 1][i] - value) * (at - low));
}

/* Dark to bright, told apart by lightness alone as well as by hue. */
const CONFIDENCE_RAMP = ["#3b1c5a", "#3f4f8f", "#2a8a8c", "#62b95c", "#f2d94e"].map(rgb);
const HEAT_RAMP = ["#2d0b4f", "#7d1d6d", "#cf4446", "#f99d23", "#fbf3a0"].map(rgb);

const css = (colour) => `rgb(${colour.map((c) => Math.round(255 * c)).join(" ")})`;
const gradient = (stops) => `linear-gradient(90deg, ${stops.map(css).join(", ")})`;

/** The pixels of an image as bytes of red, green, blue and opacity. */
async function pixels(view) {
  const image = new Image();
  image.src = view.image;
  await image.decode();
  const canvas = element("canvas", { width: view.width, height: view.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return { canvas, data: context.getImageData(0, 0, view.width, view.height).data };
}
