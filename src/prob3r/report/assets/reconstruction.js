/* The final reconstruction: both views' points and cameras. */

function reconstruction(root) {
  const { final, cameras, views } = DATA;
  const viewer = new Viewer(root.querySelector("canvas"), DATA.home);
  const pose2 = cameras.final ?? cameras.steps.at(-1);
  const poses = [STILL, pose2];
  const percentiles = final.percentiles;
  const range = [Math.log(percentiles[5]), Math.log(percentiles[95])];

  const cloud = (points, view, confidence) => {
    const look = { colours: colours(views[view], final.stride), confidence, focal: cameras.focal[view][0], stride: final.stride };
    return viewer.add(Object.assign(new Cloud(viewer, words(points), look), { camera: centre(poses[view]), range }));
  };
  const clouds = final.points.map((points, view) => cloud(points, view, words(final.confidence[view])));
  const stands = views.map((view, i) =>
    viewer.add(new Camera(viewer, view, cameras.focal[i], { colour: COLOURS.views[i], width: 2.5 })));
  stands[1].place(pose2);
  const truths = final.truth ? final.truth.map((points, view) =>
    Object.assign(cloud(points, view, null), { visible: false, flat: rgb("#4b5563"), flatness: 1, opacity: 0.35 })) : [];
  if (cameras.truth) {
    truths.push(viewer.add(new Camera(viewer, views[1], cameras.focal[1], { colour: "#4b5563", width: 1.5, picture: false })));
    truths.at(-1).place(cameras.truth);
    truths.at(-1).visible = false;
  }
  part(root, "truth-row").hidden = !truths.length;
  part(root, "note").textContent = cameras.final
    ? "Camera 1 is blue, camera 2 orange; camera 2 is placed by PnP."
    : "PnP found no camera 2; it is placed by the closest similarity.";

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
      flat: rgb(COLOURS.views[view]),
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
