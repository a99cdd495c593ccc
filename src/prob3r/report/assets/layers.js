/* Layer by layer: the probes' points moving into place, and the curves under them. */

const CHARTS = [
  { title: "Rotation error", metric: "rotation_error", show: (v, axis) => `${axis ? v : v.toFixed(1)}°`, empty: "no pose was found" },
  { title: "Translation error", metric: "translation_error", show: (v, axis) => `${axis ? v : v.toFixed(1)}°`, empty: "the baseline is too short" },
  { title: "Scale, times off", metric: "scale_error", low: 1, read: Math.exp, show: (v, axis) => `${axis ? v : v.toFixed(2)}×` },
  { title: "Shape error (after Sim(3))", metric: "shape_error", show: (v, axis) => (axis ? String(v) : v.toFixed(3)) },
];

/** How a step is called: "block 3 · cross-attention". */
const stepName = ({ block, kind }) => (block === null ? `${kind === "embed" ? DATA.trunk : "model"} ${DATA.words[kind]}` : `block ${block} · ${DATA.words[kind]}`);

/** What the arrows of a step are, and how long. */
function arrowsInWords(step) {
  const lengths = DATA.arrows.map((arrows) => arrows.lengths[step]);
  if (lengths.every((length) => length === null)) return `No arrows: the ${stepName(DATA.steps[step])} is not the output of a sublayer.`;
  const since = stepName(DATA.steps[step - 1]);
  return DATA.arrows.flatMap(({ alignments }, i) => {
    if (lengths[i] === null) return [];
    const alignment = alignments[step];
    const towards = alignment === null ? "" : `, alignment with the direction to the truth ${signed(alignment, 2)}`;
    return [`Arrows: how view ${i + 2}'s patches moved since ${since}; mean length ${lengths[i].toFixed(3)} of the ${VIEWS.length === 2 ? "pair" : "scene"}'s unit${towards}.`];
  }).join(" ");
}

class Layers {
  constructor(root) {
    this.root = root;
    this.last = DATA.steps.length - 1;
    this.place = 0;
    this.target = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.curves = CHARTS.map((chart) => new Curve(chart, (step) => this.choose(step)));
    part(root, "curves").append(...this.curves.map((curve) => curve.figure));
    this.furnish();
    try {
      this.build();
    } catch (error) {
      this.viewer = null;
      without3D(root.querySelector("canvas"));
    }
    this.slider.addEventListener("input", () => { this.stop(); this.go(Number(this.slider.value)); });
    this.button.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    part(root, "reset").addEventListener("click", () => this.viewer?.reset());
    for (const role of ["probe1", "ghost", "photo", "arrows"]) part(root, role).addEventListener("change", () => this.show());
    this.show();
  }

  /** The slider's ticks, the blocks under it, and the legend. */
  furnish() {
    const { root, last } = this;
    [this.slider, this.button] = [part(root, "step"), part(root, "play")];
    this.slider.max = last;
    const share = (i) => `${(100 * i) / Math.max(last, 1)}%`;
    DATA.steps.forEach(({ kind }, i) => {
      const tick = svg("svg", { viewBox: "-6 -6 12 12" }, mark(kind, 0, 0, 3.8));
      tick.style.left = share(i);
      part(root, "ticks").append(tick);
    });
    part(root, "blocks").classList.toggle("dense", DATA.steps.length > 30);
    const blocks = [...new Set(DATA.steps.map((s) => s.block))].filter((b) => b !== null);
    for (const block of blocks) {
      const at = DATA.steps.flatMap((s, i) => (s.block === block ? [i] : []));
      const label = element("span", {}, element("i", { textContent: "block " }), String(block));
      label.style.left = share((at[0] + at.at(-1)) / 2);
      part(root, "blocks").append(label);
    }
    for (const [kind, word] of Object.entries(DATA.words))
      part(root, "legend").append(element("span", {}, svg("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" }, mark(kind, 0, 0, 4)), word));
    if (DATA.final.truth) part(root, "ghost").append(element("option", { value: "truth", textContent: "the truth" }));
  }

  /** The 3D view. */
  build() {
    const { sites, final, cameras, views } = DATA;
    const viewer = (this.viewer = new Viewer(this.root.querySelector("canvas"), DATA.home));
    const look = (view, stride) => ({ colours: colours(views[view], stride), focal: cameras.focal[view][0], stride });
    const probes = sites.points.map((points, view) => new Cloud(viewer, words(points), look(view, sites.stride)));
    probes.forEach((cloud, view) => Object.assign(viewer.add(cloud), { flat: rgb(colourOf(view)), size: 1.25 }));
    const stands = views.map((view, i) => viewer.add(new Camera(viewer, view, cameras.focal[i], { colour: colourOf(i), width: 2.5 })));
    const pale = { flat: rgb("#6b7785"), flatness: 0.7, size: 0.7 };
    const ghosts = { // the final state shares its points with the probes' last step
      final: probes.map((cloud) => viewer.add(Object.assign(Object.create(cloud), pale, { step: this.last }))),
      truth: (final.truth ?? []).map((points, view) => viewer.add(Object.assign(new Cloud(viewer, words(points), look(view, final.stride)), pale))),
    };
    const arrows = DATA.arrows.map(({ means }, i) => viewer.add(new Arrows(viewer, words(means), patchesOf(i + 1))));
    Object.assign(this, { probes, stands, ghosts, arrows });
  }

  choose(step) {
    this.stop();
    this.slider.value = step;
    this.go(step);
  }

  /** Move smoothly to a step. */
  go(step) {
    this.target = step;
    this.say();
    if (this.calm) this.place = step;
    let before = performance.now();
    const glide = (now) => {
      const away = this.target - this.place;
      this.place = Math.abs(away) < 0.01 ? this.target : this.place + away * (1 - Math.exp(-Math.max(now - before, 0) / 110));
      before = now;
      this.show();
      this.frame = this.place === this.target ? null : requestAnimationFrame(glide);
    };
    this.frame ??= requestAnimationFrame(glide);
  }

  play() {
    if (Number(this.slider.value) >= this.last) this.slider.value = 0;
    const step = () => {
      this.go(Number(this.slider.value));
      if (Number(this.slider.value) >= this.last) this.stop();
      else this.slider.value = Number(this.slider.value) + 1;
    };
    this.timer = setInterval(step, 750);
    this.button.textContent = "❚❚";
    this.button.setAttribute("aria-label", "Pause");
    step();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "▶";
    this.button.setAttribute("aria-label", "Play");
  }

  /** Name the step that is being shown. */
  say() {
    const step = DATA.steps[this.target];
    const text = stepName(step);
    part(this.root, "where").textContent = `${text}, step ${this.target + 1} of ${this.last + 1}`;
    part(this.root, "badge").replaceChildren(svg("svg", { viewBox: "-6 -6 12 12" }, mark(step.kind, 0, 0, 4)), text,
      element("small", { textContent: `${this.target + 1} of ${this.last + 1}` }));
    this.slider.setAttribute("aria-valuetext", text);
    part(this.root, "arrows-note").replaceChildren(svg("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" }, mark(step.kind, 0, 0, 4)),
      element("span", { textContent: arrowsInWords(this.target) }));
  }

  show() {
    const withView1 = part(this.root, "probe1").checked;
    const ghost = part(this.root, "ghost").value;
    const withArrows = part(this.root, "arrows").checked;
    part(this.root, "arrows-note").hidden = !withArrows;
    for (const curve of this.curves) curve.at(this.place, withView1);
    if (!this.viewer) return;
    // On the way to a step, points glide along that step's arrows.
    const [low, next, t] = [Math.floor(this.place), Math.ceil(this.place), this.place % 1];
    const [before, after] = [DATA.cameras.steps[low], DATA.cameras.steps[next]];
    const visible = withArrows && DATA.arrows.some(({ lengths }) => lengths[next] !== null); // points then fade behind them
    for (const arrows of this.arrows) Object.assign(arrows, { visible, step: next, colour: rgb(COLOURS.kinds[DATA.steps[next].kind]) });
    this.probes.forEach((cloud, view) => {
      cloud.step = this.place;
      cloud.visible = view > 0 || withView1;
      cloud.opacity = visible ? 0.25 : 1;
      cloud.flatness = part(this.root, "photo").checked ? 0 : 1;
    });
    for (const view of OTHERS) {
      this.probes[view].camera = V.mix(centre(before[view]), centre(after[view]), t);
      this.stands[view].place(before[view], after[view], t);
    }
    for (const [name, clouds] of Object.entries(this.ghosts))
      clouds.forEach((cloud, view) => {
        cloud.visible = name === ghost;
        cloud.opacity = visible ? 0.12 : 0.3;
        cloud.camera = centre((name === "truth" ? DATA.cameras.truth : DATA.cameras.steps.at(-1))[view]);
      });
    this.viewer.request();
  }
}
