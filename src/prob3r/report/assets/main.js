/* Build all parts of the page. */

/** The patch to begin with: the middle one of a view, or the one nearest to it that has a match. */
function middlePatch(index) {
  const view = DATA.views[index];
  const [rows, columns] = view.grid;
  const away = (patch) => {
    const [row, column] = rowAndColumn(view, patch);
    return Math.hypot(row - (rows - 1) / 2, column - (columns - 1) / 2);
  };
  const all = Array.from({ length: rows * columns }, (_, i) => i);
  const matched = all.filter((patch) => DATA.matches[index - 1][patch] >= 0);
  return (matched.length ? matched : all).reduce((best, patch) => (away(patch) < away(best) ? patch : best));
}

/** The block that agrees most with the final geometry in the mean of its heads. */
function bestBlock() {
  const means = DATA.heads.filter((row) => row.head === null && row.view === 2);
  return means.reduce((best, row) => ((row.agreement ?? 0) > (best.agreement ?? 0) ? row : best)).block;
}

(async () => {
  for (const view of DATA.views) view.pixels = await pixels(view);
  Object.assign(choice, { view: 1, other: 0, patch: middlePatch(1), block: bestBlock() });
  document.getElementById("photographs").style.setProperty("--columns", VIEWS.length > 3 ? 4 : 2);
  document.getElementById("photographs").append(...VIEWS.map((i) => new Photograph(i, "choose a patch").figure));
  const root = document.getElementById("reconstruction");
  try {
    reconstruction(root);
  } catch (error) {
    root.querySelector(".controls").hidden = true;
    without3D(root.querySelector("canvas"));
  }
  const layers = document.getElementById("layers");
  if (DATA.steps.length > 1) new Layers(layers).say();
  else layers.closest("section").remove(); // without probes there is nothing between input and output
  if (DATA.camera_path) cameraPath(document.getElementById("camera-path"));
  if (document.getElementById("influence")) new Influences(document.getElementById("influence"));
  new Attention(document.getElementById("looks"));
  if (document.getElementById("relations")) new Relations(document.getElementById("relations"));
  heads(document.getElementById("heads"));
  effects(document.getElementById("effects"));
  document.documentElement.dataset.ready = "";
})();
