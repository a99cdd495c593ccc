/* Where cross-attention looks: chosen patches, heat maps block by block, and lines. */

const BEST_MATCHES = 24;

/** The most attended keys of one view's queries. */
class Looks {
  constructor({ blocks, heads, queries, top, keys, probs, kept }) {
    Object.assign(this, { blocks, heads, queries, top, kept, keys: words(keys), probs: bytes(probs) });
  }

  /** Where a query's keys begin; no head means the mean of all. */
  row(block, head, query) {
    return ((block * (this.heads + 1) + (head ?? this.heads)) * this.queries + query) * this.top;
  }

  /** The strongest key and its probability. */
  peak(block, head, query) {
    const at = this.row(block, head, query);
    return { key: this.keys[at], prob: (this.probs[at] / 255) ** 2 };
  }

  /** Probabilities over all keys; those not kept are 0. */
  map(block, head, query, keys) {
    const out = new Float32Array(keys);
    const at = this.row(block, head, query);
    for (let i = at; i < at + this.top; i++) out[this.keys[i]] = (this.probs[i] / 255) ** 2;
    return out;
  }
}

class Attention {
  constructor(root) {
    this.root = root;
    this.looks = DATA.attention.map((kept) => new Looks(kept));
    this.photographs = [0, 1].map((i) => new Photograph(i, "choose a patch to see where it looks"));
    this.lines = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.pair = part(root, "pair");
    this.pair.append(...this.photographs.map((p) => p.figure), this.lines);
    this.select = part(root, "head");
    this.select.append(element("option", { value: "", textContent: "mean of all" }));
    for (let k = 0; k < this.looks[0].heads; k++) this.select.append(element("option", { value: k, textContent: `head ${k}` }));
    this.dim = DATA.views.map(dimmed);
    this.maps = Array.from({ length: this.looks[0].blocks }, (_, block) => this.heatmap(block));
    part(root, "heatmaps").append(...this.maps.map((map) => map.button));
    root.querySelector(".heat i").style.background = gradient(HEAT_RAMP);
    const kept = Math.min(...this.looks.map((l) => l.kept));
    part(root, "kept").textContent = kept > 0.999 ? "" : `Of every patch and head the ${this.looks[0].top} strongest keys are kept here, ${percent(kept)} of the attention.`;
    this.select.addEventListener("change", () => choice.set({ head: this.select.value === "" ? null : Number(this.select.value) }));
    part(root, "lines").addEventListener("change", () => this.drawLines());
    choice.addEventListener("change", () => this.update());
    new ResizeObserver(() => this.drawLines()).observe(this.pair);
    this.update();
  }

  heatmap(block) {
    const canvas = element("canvas");
    const caption = element("span");
    const button = element("button", { type: "button", className: "heatmap" }, canvas, element("span", { className: "name", textContent: `block ${block}` }), caption);
    button.addEventListener("click", () => choice.set({ block }));
    return { button, canvas, caption };
  }

  update() {
    const { view, patch, head, block } = choice;
    this.select.value = head ?? "";
    const look = this.looks[view];
    this.maps.forEach((map, i) => {
      const { key, prob } = look.peak(i, head, patch);
      this.paint(map.canvas, 1 - view, look.map(i, head, patch, this.looks[1 - view].queries), key);
      const [row, column] = rowAndColumn(DATA.views[1 - view], key);
      map.caption.textContent = `most ${percent(prob)}`;
      map.button.setAttribute("aria-label", `Block ${i}: most attention, ${percent(prob)}, on row ${row}, column ${column} of view ${2 - view}`);
      map.button.setAttribute("aria-pressed", i === block);
    });
    const [row, column] = rowAndColumn(DATA.views[view], patch);
    part(this.root, "status").textContent = `View ${view + 1}, row ${row}, column ${column} → view ${2 - view}. Lines: block ${block}, ${head === null ? "mean of all heads" : `head ${head}`}.`;
    this.drawLines();
  }

  /** One heat map over the dimmed photograph. */
  paint(canvas, index, map, peak) {
    const [rows, columns] = DATA.views[index].grid;
    const cell = Math.max(4, Math.ceil(320 / columns));
    [canvas.width, canvas.height] = [columns * cell, rows * cell];
    const context = canvas.getContext("2d");
    context.drawImage(this.dim[index], 0, 0, canvas.width, canvas.height);
    const most = Math.max(...map, 1e-9);
    map.forEach((value, key) => {
      const level = value / most;
      if (level < 0.02) return;
      context.globalAlpha = Math.min(0.25 + 0.7 * level, 0.92);
      context.fillStyle = css(ramp(HEAT_RAMP, level));
      context.fillRect((key % columns) * cell, Math.floor(key / columns) * cell, cell, cell);
    });
    context.globalAlpha = 1;
    this.outline(context, peak, columns, cell, "#fff");
    const match = choice.view === 1 ? DATA.matches[choice.patch] : -1;
    if (match >= 0) this.cross(context, match, columns, cell);
  }

  outline(context, key, columns, cell, colour) {
    const [x, y] = [(key % columns) * cell, Math.floor(key / columns) * cell];
    context.lineWidth = 9;
    context.strokeStyle = "#000";
    context.strokeRect(x, y, cell, cell);
    context.lineWidth = 5;
    context.strokeStyle = colour;
    context.strokeRect(x, y, cell, cell);
  }

  /** A small cross where the final geometry puts the match. */
  cross(context, key, columns, cell) {
    const [x, y, r] = [(key % columns + 0.5) * cell, (Math.floor(key / columns) + 0.5) * cell, 0.3 * cell + 3];
    for (const [width, colour] of [[9, "#000"], [5, "#4cc9f0"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(x - r, y - r); context.lineTo(x + r, y + r);
      context.moveTo(x + r, y - r); context.lineTo(x - r, y + r);
      context.stroke();
    }
  }

  /** Matches that find their way back to within one patch, strongest first. */
  best() {
    const { view, block, head } = choice;
    const [there, back] = [this.looks[view], this.looks[1 - view]];
    const found = [];
    for (let query = 0; query < there.queries; query++) {
      const { key, prob } = there.peak(block, head, query);
      const home = back.peak(block, null, key).key;
      const [a, b] = [query, home].map((patch) => rowAndColumn(DATA.views[view], patch));
      if (Math.abs(a[0] - b[0]) <= 1 && Math.abs(a[1] - b[1]) <= 1) found.push({ query, key, prob });
    }
    return found.sort((a, b) => b.prob - a.prob || a.query - b.query).slice(0, BEST_MATCHES);
  }

  drawLines() {
    const { view, patch, block, head } = choice;
    const { width, height } = this.pair.getBoundingClientRect();
    this.lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const look = this.looks[view];
    const line = ({ query, key }, name) => {
      const [x1, y1] = this.photographs[view].middle(query, this.pair);
      const [x2, y2] = this.photographs[1 - view].middle(key, this.pair);
      return svg("g", { class: name }, svg("line", { x1, y1, x2, y2 }), svg("circle", { cx: x2, cy: y2, r: 3.5 }), svg("circle", { cx: x1, cy: y1, r: 2.5 }));
    };
    const best = part(this.root, "lines").value === "best" ? this.best() : [];
    const peak = look.peak(block, head, patch);
    this.lines.replaceChildren(
      ...best.map((match) => line(match, `best view${view + 1}`)),
      line({ query: patch, key: peak.key }, `chosen view${view + 1}`));
    for (const photograph of this.photographs) photograph.marks.replaceChildren();
    const map = look.map(block, head, patch, this.looks[1 - view].queries);
    const other = this.photographs[1 - view];
    map.forEach((value, key) => {
      const level = value / Math.max(peak.prob, 1e-9);
      if (level < 0.05) return;
      const [y, x] = rowAndColumn(other.view, key);
      other.marks.append(svg("rect", { x, y, width: 1, height: 1, fill: css(ramp(HEAT_RAMP, level)), "fill-opacity": 0.15 + 0.6 * level }));
    });
  }
}

/** A photograph in dark grey, for colours to stand out on. */
function dimmed(view) {
  const { width, height, pixels: { data } } = view;
  const canvas = element("canvas", { width, height });
  const out = new ImageData(width, height);
  for (let i = 0; i < data.length; i += 4) {
    const grey = 0.55 * (0.3 * data[i] + 0.59 * data[i + 1] + 0.11 * data[i + 2]) + 8;
    out.data.set([grey, grey, grey, 255], i);
  }
  canvas.getContext("2d").putImageData(out, 0, 0);
  return canvas;
}
