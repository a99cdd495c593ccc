/* A photograph cut into patches, of which one can be chosen; and the choice that all parts share. */

/** What the reader has chosen; parts listen for "change". */
const choice = Object.assign(new EventTarget(), {
  view: 1, other: 0, patch: 0, head: null, block: 0,
  set(values) {
    Object.assign(this, values);
    if (this.other === this.view) this.other = VIEWS.find((view) => view !== this.view);
    this.dispatchEvent(new Event("change"));
  },
});

const rowAndColumn = (view, patch) => [Math.floor(patch / view.grid[1]), patch % view.grid[1]];

class Photograph {
  /**
   * @param index 0 for view 1, 1 for view 2, and so on.
   * @param what What choosing a patch does, for those who hear the page.
   */
  constructor(index, what) {
    this.index = index;
    this.view = DATA.views[index];
    const [rows, columns] = this.view.grid;
    let lines = "";
    for (let c = 1; c < columns; c++) lines += `M${c} 0V${rows}`;
    for (let r = 1; r < rows; r++) lines += `M0 ${r}H${columns}`;
    const cell = (name) => svg("rect", { class: name, width: 1, height: 1 });
    [this.under, this.chosen, this.marks] = [cell("under"), cell("chosen"), svg("g")];
    this.overlay = svg("svg", { viewBox: `0 0 ${columns} ${rows}`, "aria-hidden": "true" },
      svg("path", { class: "grid", d: lines }), this.marks, this.under, this.chosen);
    this.label = element("span");
    this.box = element("div", {
      className: `photo view${index + 1}`, tabIndex: 0, role: "slider",
      "aria-label": `View ${index + 1}, ${what}`, "aria-valuemin": 0, "aria-valuemax": rows * columns - 1,
    }, element("img", { src: this.view.image, alt: "", draggable: false }), this.overlay);
    this.box.style.borderColor = colourOf(index);
    this.box.style.aspectRatio = `${this.view.width} / ${this.view.height}`;
    this.figure = element("figure", {}, this.box,
      element("figcaption", {}, element("b", { textContent: `view ${index + 1}` }), this.label));
    this.put(this.under, null);
    this.listen();
    choice.addEventListener("change", () => this.update());
    this.update();
  }

  /** The middle of a patch in pixels from an ancestor's corner. */
  middle(patch, ancestor) {
    const [own, outer] = [this.box.getBoundingClientRect(), ancestor.getBoundingClientRect()];
    const [rows, columns] = this.view.grid;
    const [row, column] = rowAndColumn(this.view, patch);
    return [own.left - outer.left + ((column + 0.5) / columns) * own.width, own.top - outer.top + ((row + 0.5) / rows) * own.height];
  }

  listen() {
    const { box } = this;
    const [rows, columns] = this.view.grid;
    const at = (event) => {
      const own = box.getBoundingClientRect();
      const column = clamp(Math.floor(((event.clientX - own.left) / own.width) * columns), 0, columns - 1);
      const row = clamp(Math.floor(((event.clientY - own.top) / own.height) * rows), 0, rows - 1);
      return row * columns + column;
    };
    box.addEventListener("pointermove", (event) => this.point(at(event)));
    box.addEventListener("pointerleave", () => this.point(null));
    box.addEventListener("click", (event) => choice.set({ view: this.index, patch: at(event) }));
    box.addEventListener("focus", () => {
      if (choice.view !== this.index && box.matches(":focus-visible")) choice.set({ view: this.index, patch: (rows >> 1) * columns + (columns >> 1) });
    });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const [row, column] = rowAndColumn(this.view, choice.view === this.index ? choice.patch : 0);
      const patch = clamp(row + step[0], 0, rows - 1) * columns + clamp(column + step[1], 0, columns - 1);
      choice.set({ view: this.index, patch });
    });
  }

  point(patch) {
    this.put(this.under, patch);
    this.say(patch ?? (choice.view === this.index ? choice.patch : null));
  }

  update() {
    const patch = choice.view === this.index ? choice.patch : null;
    this.put(this.chosen, patch);
    this.say(patch);
    const [row, column] = rowAndColumn(this.view, patch ?? 0);
    this.box.setAttribute("aria-valuenow", patch ?? 0);
    this.box.setAttribute("aria-valuetext", patch === null ? "no patch chosen" : `row ${row}, column ${column}`);
  }

  put(cell, patch) {
    cell.style.display = patch === null ? "none" : "";
    if (patch === null) return;
    const [row, column] = rowAndColumn(this.view, patch);
    cell.setAttribute("x", column);
    cell.setAttribute("y", row);
  }

  say(patch) {
    const [row, column] = patch === null ? [] : rowAndColumn(this.view, patch);
    this.label.textContent = patch === null ? `${this.view.grid[0]} × ${this.view.grid[1]} patches` : `row ${row}, column ${column}`;
  }
}
