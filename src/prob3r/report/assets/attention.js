/* Where attention between views goes: chosen patches, heat maps block by block, and lines. */

const BEST_MATCHES = 24;

/** The blocks with attention between views. */
const BLOCKS = [...new Set(DATA.heads.map((row) => row.block))];

/** The most attended patches of one view, for every patch of another. */
class Strongest {
  constructor({ blocks, heads, queries, top, keys, probs, kept }) {
    Object.assign(this, { blocks, heads, queries, top, share: kept, keys: words(keys), probs: bytes(probs) });
  }

  /** Where a query's keys begin; no head means the mean of all. */
  row(block, head, query) {
    return ((BLOCKS.indexOf(block) * (this.heads + 1) + (head ?? this.heads)) * this.queries + query) * this.top;
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
    this.kept = VIEWS.map(() => []);
    for (const part of DATA.attention) this.kept[part.from - 1][part.to - 1] = new Strongest(part);
    this.first = this.kept[1][0];
    this.photographs = VIEWS.map((i) => new Photograph(i, "choose a patch to see what it attends to"));
    this.lines = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.pair = part(root, "pair");
    this.pair.style.setProperty("--columns", Math.min(VIEWS.length, 4));
    this.pair.classList.toggle("many", VIEWS.length > 3);
    this.pair.append(...this.photographs.map((p) => p.figure), this.lines);
    this.select = part(root, "head");
    this.select.append(element("option", { value: "", textContent: "mean of all" }));
    for (let k = 0; k < this.first.heads; k++) this.select.append(element("option", { value: k, textContent: `head ${k}` }));
    this.dim = DATA.views.map(dimmed);
    this.maps = Array.from({ length: this.first.blocks }, (_, layer) => this.heatmap(BLOCKS[layer]));
    part(root, "heatmaps").append(...this.maps.map((map) => map.button));
    root.querySelector(".heat i").style.background = gradient(HEAT_RAMP);
    const kept = Math.min(...this.kept.flat().map((k) => k.share));
    part(root, "kept").textContent = kept > 0.999 ? "" : `This page keeps the ${this.first.top} strongest keys of every patch and head, which hold ${percent(kept)} of the attention.`;
    this.select.addEventListener("change", () => choice.set({ head: this.select.value === "" ? null : Number(this.select.value) }));
    this.target = part(root, "other");
    part(root, "other-row").hidden = VIEWS.length === 2;
    this.target.addEventListener("change", () => choice.set({ other: Number(this.target.value) }));
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
    const { view, other, patch, head, block } = choice;
    this.select.value = head ?? "";
    this.target.replaceChildren(...VIEWS.filter((v) => v !== view).map((v) => element("option", { value: v, textContent: `view ${v + 1}` })));
    this.target.value = other;
    const kept = this.kept[view][other];
    this.maps.forEach((map, layer) => {
      const i = BLOCKS[layer];
      const { key, prob } = kept.peak(i, head, patch);
      this.paint(map.canvas, other, kept.map(i, head, patch, patchesOf(other)), key);
      const [row, column] = rowAndColumn(DATA.views[other], key);
      map.caption.textContent = `most ${percent(prob)}`;
      map.button.setAttribute("aria-label", `Block ${i}: most attention, ${percent(prob)}, on row ${row}, column ${column} of view ${other + 1}`);
      map.button.setAttribute("aria-pressed", i === block);
    });
    const [row, column] = rowAndColumn(DATA.views[view], patch);
    part(this.root, "status").textContent = `View ${view + 1}, row ${row}, column ${column} → view ${other + 1}. Lines: block ${block}, ${head === null ? "mean of all heads" : `head ${head}`}.`;
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
    const match = choice.view > 0 && index === 0 ? DATA.matches[choice.view - 1][choice.patch] : -1;
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
    const { view, other, block, head } = choice;
    const [there, back] = [this.kept[view][other], this.kept[other][view]];
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
    const { view, other, patch, block, head } = choice;
    const { width, height } = this.pair.getBoundingClientRect();
    this.lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const kept = this.kept[view][other];
    const line = ({ query, key }, name) => {
      const [x1, y1] = this.photographs[view].middle(query, this.pair);
      const [x2, y2] = this.photographs[other].middle(key, this.pair);
      return svg("g", { class: name, style: `--paint: ${colourOf(view)}` }, svg("line", { x1, y1, x2, y2 }), svg("circle", { cx: x2, cy: y2, r: 3.5 }), svg("circle", { cx: x1, cy: y1, r: 2.5 }));
    };
    const best = part(this.root, "lines").value === "best" ? this.best() : [];
    const peak = kept.peak(block, head, patch);
    this.lines.replaceChildren(
      ...best.map((match) => line(match, "best")),
      line({ query: patch, key: peak.key }, "chosen"));
    for (const photograph of this.photographs) photograph.marks.replaceChildren();
    // Heat lies on every other view, on one scale for all of them.
    const maps = VIEWS.filter((v) => v !== view).map((v) => [v, this.kept[view][v].map(block, head, patch, patchesOf(v))]);
    const most = Math.max(1e-9, ...maps.map(([, map]) => Math.max(...map)));
    for (const [v, map] of maps)
      map.forEach((value, key) => {
        const level = value / most;
        if (level < 0.05) return;
        const [y, x] = rowAndColumn(DATA.views[v], key);
        this.photographs[v].marks.append(svg("rect", { x, y, width: 1, height: 1, fill: css(ramp(HEAT_RAMP, level)), "fill-opacity": 0.15 + 0.6 * level }));
      });
  }
}

const patchesOf = (view) => DATA.views[view].grid[0] * DATA.views[view].grid[1];

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
