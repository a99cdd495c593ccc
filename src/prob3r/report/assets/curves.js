/* Small charts of one number over all sites. */

/** The mark of a sublayer kind, about a place; shapes differ as well as colours. */
function mark(kind, x, y, r = 4) {
  const paint = { fill: COLOURS.kinds[kind], stroke: "#fff", "stroke-width": 0.8 };
  if (kind === "self_attn") return svg("circle", { cx: x, cy: y, r, ...paint });
  if (kind === "cross_attn") {
    const d = 1.35 * r;
    return svg("path", { d: `M${x} ${y - d}L${x + d} ${y}L${x} ${y + d}L${x - d} ${y}Z`, ...paint });
  }
  if (kind === "mlp") return svg("rect", { x: x - 0.85 * r, y: y - 0.85 * r, width: 1.7 * r, height: 1.7 * r, ...paint });
  const ring = svg("circle", { cx: x, cy: y, r, fill: "#fff", stroke: COLOURS.kinds[kind], "stroke-width": 1.6 });
  if (kind === "embed") return ring;
  return svg("g", {}, ring, svg("circle", { cx: x, cy: y, r: 0.45 * r, fill: COLOURS.kinds[kind] }));
}

/** Round numbers that divide a range into a few parts. */
function ticks(low, high) {
  const rough = (high - low) / 3 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough);
  const out = [];
  for (let v = low; v < high + step * 0.999; v += step) out.push(Number(v.toPrecision(12)));
  return out;
}

class Curve {
  /**
   * @param chart `{title, metric, low, show, read}`: the heading; the curve's key; where the axis
   *   begins; a number in words; and, if need be, a function from the measured number to the shown.
   *   Other numbers than the probes' come with `steps`, `values` of every view, and `against`.
   * @param choose Called with a step that the reader points at.
   */
  constructor({ title, metric, low = 0, show, read = (v) => v, empty = "no number", steps = DATA.steps, values, against }, choose) {
    const [width, height, left, right, top, bottom] = [320, 190, 40, 10, 12, 34];
    Object.assign(this, { show, metric });
    this.values = values ?? VIEWS.map((view) => DATA.curves[`view${view + 1}`][metric].map((v) => (v === null ? null : read(v))));
    const known = this.values.map((values) => values.filter((v) => v !== null));
    const tops = ticks(low, Math.max(low + 1e-6, ...known.slice(1).flat()));
    const high = tops.at(-1);
    this.x = (i) => left + (i / Math.max(steps.length - 1, 1)) * (width - left - right);
    this.y = (v) => top + (1 - (Math.min(v, high) - low) / (high - low)) * (height - top - bottom);

    this.chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const v of tops)
      this.chart.append(
        svg("line", { class: "rule", x1: left, x2: width - right, y1: this.y(v), y2: this.y(v) }),
        svg("text", { class: "tick", x: left - 6, y: this.y(v) + 3.5, "text-anchor": "end" }, show(v, true)));
    const blocks = [...new Set(steps.map((s) => s.block))].filter((b) => b !== null);
    const every = Math.ceil(blocks.length / 9);
    for (const block of blocks) {
      const at = steps.flatMap((s, i) => (s.block === block ? [i] : []));
      const first = this.x(at[0] - 0.5);
      this.chart.append(svg("line", { class: "rule faint", x1: first, x2: first, y1: top, y2: height - bottom }));
      if (block % every === 0)
        this.chart.append(svg("text", { class: "tick", x: (this.x(at[0]) + this.x(at.at(-1))) / 2, y: height - bottom + 15, "text-anchor": "middle" }, String(block)));
    }
    this.chart.append(svg("text", { class: "axis", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, `${DATA.trunk} block`));
    this.now = svg("line", { class: "now", y1: top, y2: height - bottom });
    this.chart.append(this.now);
    this.many = VIEWS.length >= MANY;
    this.middle = steps.map((_, i) => medianOf(OTHERS.map((view) => this.values[view][i])));
    const draw = (values, name, stroke, size) => {
      const line = svg("g", { class: `line ${name}` }, svg("path", { d: this.path(values), stroke }));
      if (size) values.forEach((v, i) => v !== null && line.append(mark(steps[i].kind, this.x(i), this.y(v), size)));
      this.chart.append(line);
      return line;
    };
    this.lines = this.values.map((values, view) =>
      draw(values, this.many ? "one" : `view${view + 1}`, colourOf(view), this.many ? 0 : view ? 3.6 : 2.4));
    if (this.many) draw(this.middle, "median", COLOURS.kinds.output, 3.6);
    if (!known.slice(1).flat().length) this.chart.append(svg("text", { class: "tick", x: (left + width) / 2, y: height / 2, "text-anchor": "middle" }, empty));
    this.ring = svg("circle", { class: "ring", r: 7 });
    this.chart.append(this.ring);

    this.value = element("span", { className: "value" });
    this.other = element("small", { className: "other" });
    const kinds = against ? [against] : [...new Set(OTHERS.map((view) => DATA.against[`view${view + 1}`][metric]))];
    this.figure = element("figure", { className: "curve" },
      element("figcaption", {}, element("b", { textContent: title }), this.value,
        element("small", { textContent: `${this.many ? "median of the views, " : ""}against the ${kinds.join(" or the ")}` }), this.other), this.chart);
    const point = (event) => {
      const box = this.chart.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * width;
      choose(clamp(Math.round(((at - left) / (width - left - right)) * (steps.length - 1)), 0, steps.length - 1));
    };
    this.chart.addEventListener("pointerdown", point);
    this.chart.addEventListener("pointermove", (event) => event.buttons === 1 && point(event));
  }

  path(values) {
    let pen = "M";
    return values.map((v, i) => {
      if (v === null) { pen = "M"; return ""; }
      const piece = `${pen}${this.x(i).toFixed(1)} ${this.y(v).toFixed(1)}`;
      pen = "L";
      return piece;
    }).join("");
  }

  /** Mark a place between steps, and name the nearest step's number. */
  at(place, withView1) {
    const i = Math.round(place);
    const shown = this.many ? [this.middle[i]] : OTHERS.map((view) => this.values[view][i]);
    const value = shown[0];
    for (const side of ["x1", "x2"]) this.now.setAttribute(side, this.x(place));
    this.ring.style.display = value === null ? "none" : "";
    if (value !== null) {
      this.ring.setAttribute("cx", this.x(i));
      this.ring.setAttribute("cy", this.y(value));
    }
    this.lines[0].style.display = withView1 ? "" : "none";
    const text = (v) => (v === null ? "–" : this.show(v));
    this.value.replaceChildren(...shown.flatMap((v, k) => [k ? " · " : "", shown.length > 1 ? element("span", { textContent: text(v), style: `color: ${colourOf(k + 1)}` }) : text(v)]));
    const other = this.values[0][i];
    this.other.textContent = withView1 && other !== null ? `view 1 ${this.show(other)}` : "";
  }
}
