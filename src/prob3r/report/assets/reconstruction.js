/* The final reconstruction: all views' points and cameras. */

function reconstruction(root) {
  const { final, cameras, views } = DATA;
  const viewer = new Viewer(root.querySelector("canvas"), DATA.home);
  const poses = [STILL, ...OTHERS.map((view) => cameras.final[view - 1] ?? cameras.steps.at(-1)[view])];
  const percentiles = final.percentiles;
  const range = [Math.log(percentiles[5]), Math.log(percentiles[95])];

  const cloud = (points, view, confidence) => {
    const look = { colours: colours(views[view], final.stride), confidence, focal: cameras.focal[view][0], stride: final.stride };
    return viewer.add(Object.assign(new Cloud(viewer, words(points), look), { camera: centre(poses[view]), range }));
  };
  const clouds = final.points.map((points, view) => cloud(points, view, words(final.confidence[view])));
  const stands = views.map((view, i) =>
    viewer.add(new Camera(viewer, view, cameras.focal[i], { colour: colourOf(i), width: 2.5 })));
  stands.forEach((stand, view) => stand.place(poses[view]));
  const truths = final.truth ? final.truth.map((points, view) =>
    Object.assign(cloud(points, view, null), { visible: false, flat: rgb("#4b5563"), flatness: 1, opacity: 0.35 })) : [];
  if (cameras.truth)
    for (const view of OTHERS) {
      const stand = viewer.add(new Camera(viewer, views[view], cameras.focal[view], { colour: "#4b5563", width: 1.5, picture: false }));
      stand.place(cameras.truth[view]);
      stand.visible = false;
      truths.push(stand);
    }
  part(root, "views").append(...VIEWS.map((view) => {
    const dot = element("span", { className: "dot" });
    dot.style.background = colourOf(view);
    return element("label", { className: "check" }, element("input", { type: "checkbox", checked: true, "data-role": `view${view + 1}` }), dot, `view ${view + 1}`);
  }));
  part(root, "truth-row").hidden = !truths.length;
  const lost = OTHERS.filter((view) => !cameras.final[view - 1]).map((view) => `camera ${view + 1}`);
  const placed = "Every frustum has the colour of its view; cameras are placed by PnP.";
  part(root, "note").textContent = VIEWS.length === 2
    ? (lost.length ? "PnP found no camera 2; it is placed by the closest similarity." : "Camera 1 is blue, camera 2 orange; camera 2 is placed by PnP.")
    : (lost.length ? `${placed} PnP found no ${lost.join(" and no ")}, which the closest similarity places.` : placed);

  const bar = part(root, "ramp");
  bar.children[0].textContent = percentiles[5].toFixed(1);
  bar.children[1].style.background = gradient(CONFIDENCE_RAMP);
  bar.children[2].textContent = percentiles[95].toFixed(1);

  const update = () => {
    const mode = root.querySelector("input[name=colour]:checked").value;
    const hidden = Number(part(root, "confidence").value);
    const size = Number(part(root, "size").value);
    clouds.forEach((cloud, view) => Object.assign(cloud, {
      visible: part(root, `view${view + 1}`).checked,
      size,
      least: hidden ? percentiles[hidden] : 0,
      flat: rgb(colourOf(view)),
      flatness: mode === "view" ? 1 : 0,
      byConfidence: mode === "confidence",
    }));
    stands.forEach((stand, view) => { stand.visible = part(root, "cameras").checked && part(root, `view${view + 1}`).checked; });
    truths.forEach((thing) => { thing.visible = part(root, "truth").checked; });
    bar.hidden = mode !== "confidence";
    part(root, "confidence-label").textContent = hidden ? `${hidden} %, below ${percentiles[hidden].toFixed(2)}` : "none";
    part(root, "size-label").textContent = size.toFixed(1);
    viewer.request();
  };
  root.addEventListener("input", update);
  part(root, "reset").addEventListener("click", () => viewer.reset());
  update();
}
