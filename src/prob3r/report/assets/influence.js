/* What in the photographs decides where a camera stands: the effect of every patch, in colour. */

const LESS_RAMP = ["#ffffff", "#8fd8ce", "#12988a"].map(rgb);
const MORE_RAMP = ["#ffffff", "#efa9cd", "#cb2a82"].map(rgb);
const OF_WORDS = { rotation: "its rotation", translation: "its distance" };
const WITHOUT = {
  rotation: ["without it, turned less", "without it, turned further"],
  translation: ["without it, nearer", "without it, farther away"],
};

class InfluenceMap {
  /** A photograph in grey, over which the effects of its patches are painted. */
  constructor(index, owner) {
    this.index = index;
    this.view = DATA.views[index];
    this.canvas = element("canvas", { width: 2 * this.view.width, height: 2 * this.view.height, role: "img" });
    this.label = element("span");
    this.box = element("div", { className: "photo" }, this.canvas);
    this.box.style.borderColor = colourOf(index);
    this.box.style.aspectRatio = `${this.view.width} / ${this.view.height}`;
    this.figure = element("figure", {}, this.box,
      element("figcaption", {}, element("b", { textContent: `view ${index + 1}` }), this.label));
    this.box.addEventListener("pointermove", (event) => this.point(event, owner));
    this.box.addEventListener("pointerleave", () => this.say());
  }

  show(found) {
    this.found = found;
    this.levels = new Int8Array(bytes(found.maps[this.index]).buffer);
    const [rows, columns] = this.view.grid;
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.imageSmoothingEnabled = false;
    context.filter = "grayscale(1) contrast(.55) brightness(1.5)";
    context.drawImage(this.view.pixels.canvas, 0, 0, width, height);
    context.filter = "none";
    context.globalCompositeOperation = "multiply"; // so that the photograph stays readable below
    this.levels.forEach((level, patch) => {
      const strength = Math.abs(level) / 127;
      const [row, column] = rowAndColumn(this.view, patch);
      context.fillStyle = css(ramp(level < 0 ? LESS_RAMP : MORE_RAMP, strength ** 0.75));
      context.fillRect((column * width) / columns, (row * height) / rows, width / columns, height / rows);
    });
    context.globalCompositeOperation = "source-over";
    this.say();
    this.canvas.setAttribute("aria-label", `View ${this.index + 1}: ${this.label.textContent} of what decides camera ${found.camera}`);
  }

  point(event, owner) {
    const own = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.view.grid;
    const column = clamp(Math.floor(((event.clientX - own.left) / own.width) * columns), 0, columns - 1);
    const row = clamp(Math.floor(((event.clientY - own.top) / own.height) * rows), 0, rows - 1);
    this.label.textContent = `row ${row}, column ${column}: ${owner.number(this.levels[row * columns + column])}`;
  }

  say() {
    this.label.textContent = `${percent(this.found.shares[this.index])} of the strength`;
  }
}

class Influences {
  constructor(root) {
    const cameras = [...new Set(DATA.influence.map((found) => found.camera))];
    this.kinds = [...new Set(DATA.influence.map((found) => found.of))];
    this.root = root;
    this.select = part(root, "camera");
    this.select.append(...cameras.map((camera) => element("option", { value: camera, textContent: `camera ${camera}` })));
    part(root, "camera-row").hidden = cameras.length < 2;
    part(root, "of").append(...this.kinds.map((kind) => element("label", {},
      element("input", { type: "radio", name: "influence", value: kind }), element("span", { textContent: OF_WORDS[kind] }))));
    this.maps = VIEWS.map((index) => new InfluenceMap(index, this));
    const box = part(root, "maps");
    box.style.setProperty("--columns", VIEWS.length > 3 ? 4 : VIEWS.length);
    box.append(...this.maps.map((map) => map.figure));
    const both = [...[...LESS_RAMP].reverse(), ...MORE_RAMP.slice(1)];
    root.querySelector(".influence i").style.background = gradient(both);
    this.of = this.kinds[0];
    this.select.addEventListener("change", () => this.update());
    part(root, "of").addEventListener("change", (event) => {
      this.of = event.target.value;
      this.update();
    });
    this.update();
  }

  /** The effect that a level stands for, with its sign and unit. */
  number(level) {
    const digits = this.found.most < 1 ? 3 : 2;
    return `${signed((level / 127) * this.found.most, digits)}${this.found.unit}`;
  }

  update() {
    const own = DATA.influence.filter((found) => found.camera === Number(this.select.value));
    this.found = own.find((found) => found.of === this.of) ?? own[0];
    for (const input of this.root.querySelectorAll("input")) {
      input.checked = input.value === this.found.of;
      input.disabled = !own.some((found) => found.of === input.value);
    }
    for (const map of this.maps) map.show(this.found);
    const [less, more] = WITHOUT[this.found.of];
    part(this.root, "less").textContent = `${less} (${this.number(-127)})`;
    part(this.root, "more").textContent = `${more} (${this.number(127)})`;
    const most = VIEWS.reduce((a, b) => (this.found.shares[b] > this.found.shares[a] ? b : a));
    part(this.root, "status").textContent = `View ${most + 1} holds ${percent(this.found.shares[most])} of the strength of all patches.`;
    part(this.root, "says").textContent = this.found.of === "rotation"
      ? `Degrees by which camera ${this.found.camera} turns about the axis of its rotation relative to camera 1.`
      : `How far camera ${this.found.camera} moves along the direction from camera 1, in percent of the mean distance of all points.`;
  }
}
