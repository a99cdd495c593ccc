/* The gallery: cards of atoms, and one atom in its photographs and in 3D. */

/** The activations of an example, view after view, from 0 to 1. */
function heats(example) {
  example.levels ??= example.heat.map((text) => [...bytes(text)].map((byte) => byte / 255));
  return example.levels;
}

/** The view and the patch at which an example is the strongest. */
function peakOf(example) {
  const all = heats(example).flatMap((levels, view) => levels.map((level, patch) => ({ level, view, patch })));
  return all.reduce((best, place) => (place.level > best.level ? place : best));
}

/** A photograph in which patches without the atom are dark. */
function lit(view, levels, label) {
  const canvas = element("canvas", { width: view.width, height: view.height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const [rows, columns] = view.grid;
  context.drawImage(view.pixels.canvas, 0, 0);
  levels.forEach((level, patch) => {
    context.fillStyle = `rgb(8 10 24 / ${0.72 * (1 - Math.sqrt(level))})`;
    const [x, y] = [patch % columns, Math.floor(patch / columns)];
    context.fillRect((x * view.width) / columns, (y * view.height) / rows, view.width / columns, view.height / rows);
  });
  return canvas;
}

/** The strongest patches of an atom, side by side, with a patch of margin. */
function crops(atom) {
  const [side, count] = [3 * DATA.patch, 3];
  const canvas = element("canvas", { width: count * side, height: side });
  const context = canvas.getContext("2d");
  atom.examples.slice(0, count).forEach((example, i) => {
    const { view, patch } = peakOf(example);
    const photograph = DATA.scenes[example.scene][view];
    const columns = photograph.grid[1];
    const x = clamp((patch % columns) - 1, 0, columns - 3) * DATA.patch;
    const y = clamp(Math.floor(patch / columns) - 1, 0, photograph.grid[0] - 3) * DATA.patch;
    context.drawImage(photograph.pixels.canvas, x, y, side, side, i * side, 0, side - 1, side);
  });
  return canvas;
}

const saying = ({ word, where, score }) => `${word} ${signed(score, 2)}${where ? ", strongest" : ""}`;

class One {
  constructor(root) {
    this.root = root;
    this.clouds = [];
    try {
      this.viewer = new Viewer(root.querySelector("canvas"), DATA.atoms[0].home);
    } catch (error) {
      without3D(root.querySelector("canvas"));
    }
    part(root, "views").append(...VIEWS.map((view) => {
      const dot = element("span", { className: "dot" });
      dot.style.background = colourOf(view);
      return element("label", { className: "check" }, element("input", { type: "checkbox", checked: true, "data-view": view }), dot, `view ${view + 1}`);
    }));
    root.addEventListener("input", () => this.update());
    part(root, "reset").addEventListener("click", () => this.viewer?.reset());
  }

  show(atom) {
    this.atom = atom;
    this.root.querySelector("h2").textContent = `Atom ${atom.number}`;
    part(this.root, "share").textContent = `Active at ${atom.shares.map((share, v) => `${percent(share, 1)} of the patches of view ${v + 1}`).join(" and ")}. In 3D: the scene in which it is the strongest.`;
    part(this.root, "told").replaceChildren(...atom.told.map((row) =>
      element("li", {}, `${row.word} ${signed(row.score, 2)} `, element("small", { textContent: `${row.where} (control ${row.control === null ? "–" : signed(row.control, 2)})` }))));
    if (!atom.told.length) part(this.root, "told").append(element("li", { textContent: "No test has a score above the threshold." }));
    part(this.root, "examples").replaceChildren(...atom.examples.map((example, i) => {
      const photographs = DATA.scenes[example.scene].map((view, v) =>
        lit(view, heats(example)[v], `View ${v + 1} of scene ${example.scene}; bright where the atom is active`));
      const strength = percent(Math.max(...heats(example).flat()));
      return element("div", { className: "example" }, ...photographs,
        element("small", { textContent: `${i ? "" : "the scene in 3D · "}${strength} of its largest activation` }));
    }));
    this.root.querySelector("input[name=state][value='1']").checked = true;
    if (this.viewer) this.fill();
    this.update();
  }

  fill() {
    const { viewer, atom } = this;
    for (const cloud of this.clouds) for (const buffer of cloud.buffers) if (buffer) viewer.gl.deleteBuffer(buffer);
    const views = DATA.scenes[atom.examples[0].scene];
    const { stride, focal } = atom;
    this.paints = views.map((view, v) => [colours(view, stride), this.painted(view, v, stride)]);
    this.clouds = views.map((view, v) => Object.assign(
      new Cloud(viewer, words(atom.points[v]), { colours: this.paints[v][0], focal, stride }), { step: 1, size: 1.5 }));
    const stand = new Camera(viewer, views[0], [focal, focal], { colour: colourOf(0), width: 2.5 });
    viewer.things = [...this.clouds, stand];
    viewer.home = atom.home;
    viewer.reset();
  }

  /** Every pixel's activation as a colour. */
  painted(view, v, stride) {
    const levels = heats(this.atom.examples[0])[v];
    const out = [];
    for (let y = 0; y < view.height; y += stride)
      for (let x = 0; x < view.width; x += stride) {
        const patch = Math.floor(y / DATA.patch) * view.grid[1] + Math.floor(x / DATA.patch);
        out.push(...ramp(HEAT_RAMP, Math.sqrt(levels[patch])).map((c) => Math.round(255 * c)));
      }
    return new Uint8Array(out);
  }

  update() {
    const state = Number(this.root.querySelector("input[name=state]:checked").value);
    const mode = this.root.querySelector("input[name=colour]:checked").value;
    const far = VIEWS.map((view) => `view ${view + 1} by ${percent(this.atom.moved[state][view], 1)}`).join(", ");
    part(this.root, "badge").textContent = state === 1 ? "The output of the model" : `${state ? `Atom × ${DATA.up}` : "Atom off"}, which moves ${far}`;
    if (!this.viewer) return;
    this.clouds.forEach((cloud, view) => {
      cloud.visible = this.root.querySelector(`input[data-view="${view}"]`).checked;
      const { gl } = this.viewer;
      gl.bindBuffer(gl.ARRAY_BUFFER, cloud.buffers[1]);
      gl.bufferData(gl.ARRAY_BUFFER, this.paints[view][mode === "activation" ? 1 : 0], gl.STATIC_DRAW);
    });
    this.move(state);
  }

  /** Let the points go to a state, at once if the reader wants no motion. */
  move(state) {
    cancelAnimationFrame(this.frame);
    const from = this.clouds[0].step;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const start = performance.now();
    const tick = (now) => {
      const t = still ? 1 : clamp((now - start) / 500, 0, 1);
      for (const cloud of this.clouds) cloud.step = from + (state - from) * (t * t * (3 - 2 * t));
      this.viewer.request();
      if (t < 1) this.frame = requestAnimationFrame(tick);
    };
    tick(start);
  }
}

(async () => {
  for (const views of Object.values(DATA.scenes)) for (const view of views) view.pixels = await pixels(view);
  const one = new One(document.getElementById("one"));
  const cards = DATA.atoms.map((atom) => {
    const best = atom.told[0];
    const card = element("button", { type: "button", className: "atom", "aria-pressed": "false" },
      crops(atom), element("b", { textContent: `atom ${atom.number}` }),
      element("span", { textContent: best ? saying(best) : "no score above the threshold" }));
    card.addEventListener("click", () => {
      choose(atom);
      document.getElementById("one").scrollIntoView();
    });
    return card;
  });
  const choose = (atom) => {
    cards.forEach((card, i) => card.setAttribute("aria-pressed", String(DATA.atoms[i] === atom)));
    one.show(atom);
  };
  document.getElementById("atoms").append(...cards);
  choose(DATA.atoms[0]);
  document.documentElement.dataset.ready = "";
})();
